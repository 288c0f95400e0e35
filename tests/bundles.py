"""Tiny bundles made by hand: right ones, and the parts to make wrong ones of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flowship.runtime.hashing import sha256_bytes
from flowship.runtime.manifest import (
    MANIFEST,
    ArrayEntry,
    Artifact,
    FileEntry,
    Golden,
    Manifest,
    Source,
)
from flowship.runtime.schema import to_json
from flowship.runtime.spec import (
    ARBlock,
    ClassConditioning,
    FlowSpec,
    ImageSpec,
    LatentSpec,
    TrainingNoise,
)

Json = dict[str, Any]

CLASS_NAMES = ("t-shirt", "sneaker", "ankle boot")
PACKAGE = "coreml/fp16/block0.mlpackage"


def tiny_spec(
    *, in_channels: int = 1, num_classes: int = 3, class_names: tuple[str, ...] = CLASS_NAMES
) -> FlowSpec:
    """Two blocks of one layer and 8 channels on pictures of 4 x 4 in patches of 2 x 2."""
    image = ImageSpec(img_size=4, in_channels=in_channels, patch_size=2, num_patches=4)
    classes = ClassConditioning("class", num_classes, class_names) if num_classes else None
    return FlowSpec(
        family="tarflow",
        image=image,
        latents=(LatentSpec("z", (4, image.patch_dim), "scaled_normal"),),
        stages=tuple(
            ARBlock("ar_block", f"block{b}", b, 8, 1, 1, 8, "flip" if b else "identity")
            for b in (1, 0)
        ),
        conditioning=classes,
        guidance="linear_ab",
        denoise="tweedie",
        training_noise=TrainingNoise("gaussian", 0.1),
    )


def tiny_files(spec: FlowSpec) -> dict[str, bytes]:
    """Content of every file; the graphs are not graphs, only files."""
    D = spec.image.patch_dim
    files = {"arrays/var.f32": np.ones((4, D), "<f4").tobytes()}
    for block in spec.ar_blocks:
        rows = np.arange(4 * 8, dtype="<f4")
        files[f"arrays/{block.name}.pos.f32"] = rows.tobytes()
        files[f"arrays/{block.name}.classes.f32"] = rows[: (spec.num_classes + 1) * 8].tobytes()
        files[f"onnx/fp32/{block.name}.onnx"] = f"graph {block.name}".encode()
        files[f"onnx/fp32/{block.name}.weights"] = bytes(range(256))
    files[f"{PACKAGE}/Manifest.json"] = b"{}"
    files[f"{PACKAGE}/Data/com.apple.CoreML/weights/weight.bin"] = bytes(256)
    return files


def tiny_manifest(spec: FlowSpec, files: dict[str, bytes]) -> Manifest:
    arrays = {"var": ArrayEntry("arrays/var.f32", (4, spec.image.patch_dim))}
    artifacts = [
        Artifact("coreml", "fp16", "step", "block0", "stateful", 1, (1, 4), PACKAGE,
                 tuple(name for name in files if name.startswith(PACKAGE)))
    ]  # fmt: skip
    for block in spec.ar_blocks:
        for name, rows in (("pos", 4), ("classes", spec.num_classes + 1)):
            path = f"arrays/{block.name}.{name}.f32"
            arrays[f"{block.name}.{name}"] = ArrayEntry(path, (rows, 8))
        graph = f"onnx/fp32/{block.name}.onnx"
        own = (graph, f"onnx/fp32/{block.name}.weights")
        artifacts.append(Artifact("onnx", "fp32", "step", block.name, "gqa", 1, (), graph, own))
    return Manifest(
        schema_version=1,
        flowship_version="0.1.0",
        name="tiny",
        spec=spec,
        source=Source("tiny.pth", "0" * 64, "Apache-2.0"),
        arrays=arrays,
        files={name: FileEntry(len(data), sha256_bytes(data)) for name, data in files.items()},
        artifacts=tuple(artifacts),
        quality=(),
        golden=Golden(1, "0" * 64),
    )


def write_bundle(
    root: Path, edit: Callable[[Json], object] | None = None, spec: FlowSpec | None = None
) -> Path:
    """A bundle folder; ``edit`` changes the manifest's JSON, the files stay right."""
    spec = spec or tiny_spec()
    files = tiny_files(spec)
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    manifest: Json = to_json(tiny_manifest(spec, files))
    if edit:
        edit(manifest)
    (root / MANIFEST).write_text(json.dumps(manifest))
    return root
