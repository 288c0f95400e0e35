"""Models of 512 channels: products of codes, a cache of int8, and what an export says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal
from conftest import TRAINED

from flowship.export.families.tarflow import TarFlowConfig
from flowship.export.synthetic import write_checkpoint
from flowship.runtime import Bundle, Flow, cli
from flowship.runtime.images import psnr_db
from flowship.runtime.plan import Plan
from flowship.runtime.spec import TrainingNoise
from flowship.runtime.verification import verify_bundle

CONFIG = TarFlowConfig(
    in_channels=3,
    img_size=16,
    patch_size=4,
    channels=512,
    num_blocks=2,
    layers_per_block=1,
    num_classes=3,
    nvp=True,
    head_dim=64,
    expansion=4,
    noise=TrainingNoise("gaussian", 0.1),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("wide"), "wide", CONFIG)


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the type of the cache."""
    root, found = tmp_path_factory.mktemp("bundles"), {}
    for cache in ("float", "int8"):
        found[cache] = root / f"{cache}.flowship"
        wishes = ("--precision", "fp32,int8,int4", "--onnx-kv-cache", cache, "-q")
        words = ["export", str(checkpoint), "-o", str(found[cache]), *wishes]
        assert cli.main(words) == 0
    return found


def test_forms_and_words(bundles: dict[str, Path]) -> None:
    for cache, form in (("float", "gqa-nbits"), ("int8", "gqa-nbits-kv8")):
        with Bundle.open(bundles[cache]) as bundle:
            manifest = bundle.manifest
            checks = list(verify_bundle(bundle, threads=1))
        assert checks and [check.name for check in checks if check.passed is False] == []
        steps = [a for a in manifest.artifacts if a.role == "step"]
        assert {a.form for a in steps if a.precision != "fp32"} == {form}
        assert {a.form for a in steps if a.precision == "fp32"} == {"gqa"}
        methods = {q.precision: q.method for q in manifest.quality}
        assert methods["fp32"] is None
        said = "KV cache in int8, scales from 8 pictures of the model itself"
        assert (said in (methods["int4"] or "")) == (cache == "int8")


def test_the_cache_costs_little(bundles: dict[str, Path]) -> None:
    """On top of what 8-bit activations cost: bits/dim within 0.002."""
    changes = {}
    for cache, path in bundles.items():
        with Bundle.open(path) as bundle:
            quality = next(q for q in bundle.manifest.quality if q.precision == "int8")
            changes[cache] = quality.bits_per_dim_change or 0.0
    assert abs(changes["int8"] - changes["float"]) < 2e-3


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_windows_give_the_sequential_picture(
    bundles: dict[str, Path], precision: str, guidance: float
) -> None:
    with Flow.open(bundles["int8"], precision=precision, plan="default") as flow:
        blocks = [block.name for block in flow.spec.ar_blocks]
        found = {}
        for window in (1, 2, 5, 15):
            windows = dict.fromkeys(blocks, window)
            flow.plan = Plan(windows, windows)
            found[window] = flow.generate(seed=4, label=1, guidance=guidance).pictures()
    for window in (2, 5, 15):
        off = np.abs(found[window].astype(int) - found[1])
        assert off.max() <= 1 and (off == 0).mean() >= 0.999


def test_inspect_counts_the_cache(bundles: dict[str, Path], flowship: Terminal) -> None:
    sizes = {}
    for cache, path in bundles.items():
        found = flowship.ok("inspect", path, "--json").json
        sizes[cache] = next(f["cache_bytes"] for f in found["memory"] if f["precision"] == "int8")
    assert sizes["float"] == 4 * sizes["int8"] == 4 * 2 * 16 * 512


def test_refusals(checkpoint: Path, flowship: Terminal) -> None:
    wish = ("--onnx-kv-cache", "int8")
    narrow = flowship.refused("export", TRAINED, "--precision", "int8", *wish)
    assert "is for models with 512 channels and more, this one has 128" in narrow
    floats = flowship.refused("export", checkpoint, "--precision", "fp32", *wish)
    assert "is for quantized precisions of onnx: export one of int8, int4, mixed" in floats
    core = flowship.refused(
        "export", checkpoint, "--precision", "int8", "--onnx-form", "core", *wish
    )
    assert "the onnx form core has a float KV cache: choose the form gqa" in core


def test_the_core_form_unpacks_codes_of_any_width(
    checkpoint: Path, bundles: dict[str, Path], flowship: Terminal
) -> None:
    """For providers without MatMulNBits: the same codes, in float32."""
    wish = ("--onnx-form", "core", "--precision", "int8,int4", "--windows", "1,4", "--no-denoise")
    flowship.ok("export", checkpoint, "-o", "core.flowship", *wish, "-q")
    for precision, floor in (("int8", 40), ("int4", 40)):
        pictures = []
        for path in (Path("core.flowship"), bundles["float"]):
            with Flow.open(path, precision=precision, plan="default") as flow:
                pictures.append(flow.generate(seed=4, label=1).images)
        assert psnr_db(*pictures) > floor  # the other one rounds activations to 8 bits
