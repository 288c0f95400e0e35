"""Bundles of people's own: the embedded one renamed, changed, and zipped for the web app."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from conftest import TRAINED

from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.hashing import sha256_bytes
from flowship.runtime.normal import normals
from flowship.runtime.schema import to_json

if TYPE_CHECKING:
    from flowship.export.checkpoint import Checkpoint
    from flowship.export.quantize.block_quantizer import BlockQuantizer

MANIFEST = "manifest.json"


class OwnBundle:
    """Files and manifest, which may be changed before they are zipped.

    Attributes:
        manifest: the JSON of manifest.json.
        files: all others, by path; put() keeps the manifest true.
    """

    def __init__(self, name: str = "mine") -> None:
        self.files = {
            file.relative_to(EMBEDDED).as_posix(): file.read_bytes()
            for file in sorted(EMBEDDED.rglob("*"))
            if file.is_file() and file.name != MANIFEST
        }
        self.manifest: dict[str, Any] = json.loads((EMBEDDED / MANIFEST).read_text("utf-8"))
        self.manifest["name"] = name

    def put(self, path: str, data: bytes) -> None:
        self.files[path] = data
        self.manifest["files"][path] = {"bytes": len(data), "sha256": sha256_bytes(data)}

    def zip(self, path: Path, *, packed: bool = False) -> Path:
        kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr(f"mine.flowship/{MANIFEST}", json.dumps(self.manifest))
            for name, data in self.files.items():
                archive.writestr(f"mine.flowship/{name}", data)
        return path

    def write(self, folder: Path) -> Path:
        """As a folder, undeclared files too."""
        for name, data in {**self.files, MANIFEST: json.dumps(self.manifest).encode()}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    @property
    def sha256(self) -> str:
        """Of the manifest as it is zipped."""
        return sha256_bytes(json.dumps(self.manifest).encode())

    # -- changes -----------------------------------------------------------------------------------

    def without_denoising(self) -> OwnBundle:
        """No vector-Jacobian graphs."""
        kept = [a for a in self.manifest["artifacts"] if a["role"] != "vjp"]
        self.manifest["artifacts"] = kept
        return self

    def standard_normal(self) -> OwnBundle:
        """Latents of variance 1, without an array that says so."""
        (latent,) = self.manifest["spec"]["latents"]
        latent["prior"] = "standard_normal"
        del self.manifest["arrays"]["var"]
        self.manifest["golden"]["pictures"] = []
        return self

    def flipped(self, path: str) -> OwnBundle:
        """The last byte of a file is another than the manifest says."""
        data = self.files[path]
        self.files[path] = data[:-1] + bytes([data[-1] ^ 1])
        return self

    def with_precision(self, precision: str, *, int8_cache: bool = False) -> OwnBundle:
        """With real graphs of fp16, or of int8: products of codes, as wide models have."""
        from flowship.export.checkpoint import Checkpoint
        from flowship.export.targets import TARGETS, TargetOptions
        from flowship.export.targets.onnx import target as onnx_target

        opened, target = Checkpoint.open(TRAINED), TARGETS["onnx"]
        formats, quantizer = target.formats.get(precision), _rounding(opened)
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_target, "WIDE", 0)
            for stage in opened.config.flow_spec().ar_blocks:
                weights = opened.block(stage.block)
                if formats:
                    found = weights.network.items()
                    layers = [n for n, w in found if w.ndim == 2 and not n.startswith("proj_")]
                    named = dict.fromkeys(layers, formats[0])
                    weights = quantizer.quantize(stage, weights, named)
                if int8_cache:
                    weights = quantizer.with_cache_scales(stage, weights)
                made = target.export_block(
                    Path(folder), opened.config, stage, weights, precision, TargetOptions()
                )
                self.manifest["artifacts"] += [to_json(artifact) for artifact in made]
            for file in Path(folder).rglob("*.*"):
                self.put(file.relative_to(folder).as_posix(), file.read_bytes())
        return self

    def renamed(self, name: str) -> OwnBundle:
        """The graphs of float32 once more as another precision: a choice, but no other numbers."""
        for path in [path for path in self.files if path.startswith("onnx/fp32/")]:
            self.put(path.replace("/fp32/", f"/{name}/"), self.files[path])
        for artifact in copy.deepcopy(self.manifest["artifacts"]):
            text = json.dumps({**artifact, "precision": name}).replace("/fp32/", f"/{name}/")
            self.manifest["artifacts"].append(json.loads(text))
        return self

    def that_never_ends(self) -> OwnBundle:
        """The first block's graphs count to 2^62 before they answer."""
        for branches in (1, 2):
            path = f"onnx/fp32/block3.gqa_b{branches}.onnx"
            self.put(path, _endless(self.files[path]))
        return self

    def of_four_channels(self) -> OwnBundle:
        """The same numbers of values, as pictures that no screen shows."""
        image = self.manifest["spec"]["image"]
        image.update(img_size=14, in_channels=4, patch_size=2)
        return self

    def of_another_engine(self) -> OwnBundle:
        """Artifacts of Core ML alone."""
        for artifact in self.manifest["artifacts"]:
            artifact["engine"] = "coreml"
        return self


def _rounding(checkpoint: Checkpoint) -> BlockQuantizer:
    """To nearest, and scales of a cache from noise."""
    from flowship.export.quantize.block_quantizer import BlockQuantizer
    from flowship.export.quantize.data import PictureSet

    config = checkpoint.config
    noise = normals(0, 4 * config.num_patches * config.patch_dim)
    pictures = PictureSet(noise.reshape(4, config.num_patches, -1), (0, 1, 2, 3), "noise")
    return BlockQuantizer(checkpoint, "rtn", pictures, keep=False)


def _endless(graph: bytes) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_model_from_string(graph)
    for node in model.graph.node:
        node.output[:] = ["ab_before" if name == "ab" else name for name in node.output]
    one: tuple[int, list[int]] = TensorProto.FLOAT, []
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes_on"]),
            helper.make_node("Identity", ["value"], ["next_value"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", *one),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_value", *one),
        ],
    )
    model.graph.initializer.extend(
        [
            helper.make_tensor("loop_turns", TensorProto.INT64, [], [1 << 62]),
            helper.make_tensor("loop_go", TensorProto.BOOL, [], [True]),
            helper.make_tensor("loop_zero", *one, [0.0]),
        ]
    )
    model.graph.node.extend(
        [
            # It begins with an input, so that it is not counted out when the graph is loaded.
            helper.make_node("ReduceMax", ["x"], ["loop_first"], keepdims=0),
            helper.make_node(
                "Loop", ["loop_turns", "loop_go", "loop_first"], ["loop_last"], body=body
            ),
            helper.make_node("Mul", ["loop_last", "loop_zero"], ["loop_nothing"]),
            helper.make_node("Add", ["ab_before", "loop_nothing"], ["ab"]),
        ]
    )
    return bytes(model.SerializeToString())
