"""A block larger than memory: weights are made when asked for, layers run one at a time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from conftest import CONDITIONAL, GOLDEN, UNCONDITIONAL, VOLUME_PRESERVING

from flowship.export import checkpoint as checkpoint_module
from flowship.export import pipeline
from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import BlockWeights
from flowship.export.lazy import LazyMapping
from flowship.export.parity import fresh_noise
from flowship.export.pipeline import export_checkpoint
from flowship.export.quantize import block_quantizer
from flowship.export.quantize.block import quantize_block
from flowship.export.quantize.formats import FORMATS
from flowship.export.quantize.layers import matrix_names
from flowship.export.reference import LayeredReference
from flowship.export.request import ExportRequest
from flowship.export.synthetic import PRESETS, write_checkpoint
from flowship.runtime import CheckpointError
from flowship.runtime.hashing import sha256_of
from flowship.runtime.progress import ProgressLine

Floats = npt.NDArray[np.float32]

MODELS = (CONDITIONAL, UNCONDITIONAL, VOLUME_PRESERVING)
DEEP = replace(PRESETS["tarflow-tiny"].config, num_blocks=1, layers_per_block=6)


@pytest.fixture
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every block as too large for memory."""
    monkeypatch.setattr(checkpoint_module, "WHOLE_BLOCK_BYTES", 0)
    monkeypatch.setattr(block_quantizer, "MAX_KEPT_WEIGHTS", 0)


def _rounded(weights: BlockWeights, num_layers: int) -> BlockWeights:
    formats = dict.fromkeys(matrix_names(num_layers), FORMATS["int4_g32"])
    return quantize_block(weights, formats, "rtn")


# ---- mappings ------------------------------------------------------------------------------------


def test_values_are_made_when_they_are_asked_for() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name.upper()

    mapping = LazyMapping(["b", "a"], make)
    assert list(mapping) == ["b", "a"] and len(mapping) == 2
    assert "a" in mapping and "c" not in mapping and not made
    assert mapping["a"] == "A" and list(mapping.values()) == ["B", "A"]
    assert made == ["a", "b", "a"]
    with pytest.raises(KeyError, match="c"):
        mapping["c"]


@pytest.mark.usefixtures("nothing_is_kept")
@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_same_read_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Checkpoint.open(GOLDEN / f"{name}.pth")
    lazy = opened.block(1)
    monkeypatch.setattr(checkpoint_module, "WHOLE_BLOCK_BYTES", 1 << 30)
    whole = opened.block(1)
    assert list(lazy.network) == list(whole.network)
    for parameter, array in whole.network.items():
        assert lazy.network[parameter] is not lazy.network[parameter]  # nothing is kept
        np.testing.assert_array_equal(lazy.network[parameter], array)
    np.testing.assert_array_equal(lazy.pos, whole.pos)
    np.testing.assert_array_equal(lazy.classes, whole.classes)


@pytest.mark.usefixtures("nothing_is_kept")
def test_a_weight_that_is_no_number_is_found_when_it_is_read(tmp_path: Path) -> None:
    state = torch.load(GOLDEN / f"{UNCONDITIONAL}.pth", weights_only=True)
    name = "blocks.1.attn_blocks.0.attention.qkv.weight"
    state[name][3, 5] = float("nan")
    torch.save(state, tmp_path / "x.pth")
    opened = Checkpoint.open(tmp_path / "x.pth")
    network = opened.block(1).network
    with pytest.raises(CheckpointError, match=f"1 of 12288 values of {name} are NaN"):
        network[name.removeprefix("blocks.1.")]
    with pytest.raises(CheckpointError, match=name):
        opened.check_finite()
    with pytest.raises(CheckpointError, match=name):
        _export(tmp_path / "x.pth", tmp_path / "x.flowship", "int4")
    assert not (tmp_path / "x.flowship").exists()


# ---- the reference -------------------------------------------------------------------------------


@pytest.mark.parametrize("quantized", [False, True], ids=["trained", "int4"])
@pytest.mark.parametrize("name", MODELS)
def test_layer_by_layer_equals_the_whole_block(name: str, quantized: bool) -> None:
    opened = Checkpoint.open(GOLDEN / f"{name}.pth")
    config, stage = opened.config, opened.config.flow_spec().ar_blocks[0]
    weights = opened.block(stage.block)
    if quantized:
        weights = _rounded(weights, stage.num_layers)
    layered = LayeredReference(config, stage, weights)
    module = weights.dequantized().module(config)
    T, D = config.num_patches, config.patch_dim
    x, scale = fresh_noise(1, 2, T, D), np.array([1, 0.6], np.float32)
    context = layered.context([0, -1])
    found = layered.parameters(x, context, scale)

    leaf = torch.from_numpy(x).requires_grad_(True)
    xa, xb, _ = module(leaf, torch.from_numpy(context), None, torch.from_numpy(scale))
    wanted = torch.cat([xa, xb], -1).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)

    grads = fresh_noise(2, 2, T, D)
    leaf = torch.from_numpy(x[:1]).requires_grad_(True)
    xa, xb, _ = module(leaf, torch.from_numpy(context[:1]))
    total = sum((p[0] * torch.from_numpy(g)).sum() for p, g in zip((xa, xb), grads, strict=True))
    (gradient,) = torch.autograd.grad(total, [leaf])
    np.testing.assert_allclose(
        layered.gradient(x[0], context[0], *grads), gradient[0].numpy(), atol=1e-5
    )
    assert np.abs(found).max() > 0.1 and gradient.abs().max() > 0.1


# ---- a whole export ------------------------------------------------------------------------------


def _export(checkpoint: Path, output: Path, *precisions: str) -> Mapping[str, str]:
    """Hashes of its files, by path."""
    request = ExportRequest(precisions=precisions, method="rtn")
    export_checkpoint(checkpoint, output, request, ProgressLine(enabled=False))
    files = (path for path in output.rglob("*") if path.is_file())
    return {
        path.relative_to(output).as_posix(): sha256_of(path)
        for path in files
        if path.name != "manifest.json"  # its peak_memory_bytes are measured
    }


def test_the_same_files_matrix_by_matrix(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    checkpoint, precisions = GOLDEN / f"{CONDITIONAL}.pth", ("fp32", "int4")
    whole = _export(checkpoint, tmp_path / "whole.flowship", *precisions)
    request.getfixturevalue("nothing_is_kept")
    lazy = _export(checkpoint, tmp_path / "lazy.flowship", *precisions)
    assert whole == lazy
    assert sum(path.endswith(".weights.bin") for path in lazy) == 6


class _Alive:
    """Bytes of weights that are in memory at the same time, at most."""

    def __init__(self) -> None:
        self.now = self.most = self.read = 0

    def watch(self, array: Floats) -> Floats:
        self.now += array.nbytes
        self.read += array.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(array, self._gone, array.nbytes)
        return array

    def _gone(self, nbytes: int) -> None:
        self.now -= nbytes


@pytest.mark.usefixtures("nothing_is_kept")
def test_never_more_than_a_layer_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the trained weights, during a whole export to int4 with its check against torch."""
    monkeypatch.setattr(pipeline, "FULL_CHECK_CALLS", 0)
    checkpoint, alive = write_checkpoint(tmp_path, "deep", DEEP), _Alive()
    right = Checkpoint._array

    def watched(opened: Checkpoint, name: str) -> Floats:
        return alive.watch(right(opened, name))

    monkeypatch.setattr(Checkpoint, "_array", watched)
    _export(checkpoint, tmp_path / "x.flowship", "int4")
    layer = 4 * 12 * DEEP.channels**2
    assert alive.read > 2 * DEEP.layers_per_block * layer  # written and checked
    assert alive.most < 1.1 * layer


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int4"])
def test_gradients_unpack_weights_in_front(tmp_path: Path, precision: str) -> None:
    """ONNX Runtime would otherwise have all of them in memory at once."""
    _export(GOLDEN / f"{CONDITIONAL}.pth", tmp_path / "x.flowship", precision)
    path = tmp_path / f"x.flowship/onnx/{precision}/block0.vjp.onnx"
    graph = onnx.load(path, load_external_data=False).graph
    known = {"", *(tensor.name for tensor in graph.initializer)}
    early = []
    for node in graph.node:
        early.append(known.issuperset(node.input))
        if early[-1]:
            known.update(node.output)
    assert early == sorted(early, reverse=True)
    unpacking = {"fp32": 0, "fp16": 20, "int4": 8}[precision]  # and the causal mask
    assert unpacking < sum(early) < len(early)
