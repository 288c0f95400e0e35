"""Weights packed for this processor: the same bits, found again, never found by mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal

from flowship.runtime import Bundle, EngineError, Flow
from flowship.runtime.engines import EngineOptions
from flowship.runtime.engines.onnx import OnnxEngine
from flowship.runtime.engines.onnx_packed import GRAPH, SUMS, packed_folder, packed_name


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flowship" / "packed"


def test_the_same_pictures(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Flow.open(plan="default") as flow:
        wanted = [flow.generate(seed=3, label=1, guidance=g).images for g in (0.0, 2.0)]
    with Bundle.open() as bundle:
        engine = OnnxEngine(bundle, EngineOptions("fp32"))
        written = engine.pack_weights()
        files = bundle.manifest.files
        assert written > 2 * sum(files[name].bytes for name in files if "weights" in name)
        assert engine.pack_weights() == 0
        engine.close()
    assert len(list(cache.iterdir())) == 8
    opened: list[Path] = []
    create = OnnxEngine._create_session

    def spy(self: OnnxEngine, path: Path, *rest: bool, **named: bool) -> object:
        opened.append(path)
        return create(self, path, *rest, **named)

    monkeypatch.setattr(OnnxEngine, "_create_session", spy)
    with Flow.open(plan="default") as flow:
        found = [flow.generate(seed=3, label=1, guidance=g).images for g in (0.0, 2.0)]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {path.parents[1] for path in opened} == {packed_folder()}


def test_other_weights_or_builds_are_other_places() -> None:
    places = [packed_name(h, v) for h in (["a"], ["b"], ["a", "b"]) for v in ("1", "2")]
    assert len(set(places)) == len(places)


def test_from_the_command_line(flowship: Terminal, cache: Path) -> None:
    result = flowship.ok("plan", "--threads", "1", "--pack-weights")
    assert "packed weights: " in result.err and cache.is_dir()
    refused = flowship.refused("plan", "--engine", "executorch", "--pack-weights")
    assert "--pack-weights is for the engine onnx" in refused


def test_what_was_damaged_on_the_disk_is_refused(flowship: Terminal, cache: Path) -> None:
    with Bundle.open() as bundle:
        engine = OnnxEngine(bundle, EngineOptions("fp32"))
        engine.pack_weights()
        engine.close()
    flowship.ok("generate", "-o", "a.png")
    for file in cache.glob("*/weights.bin"):
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(damaged)
    refused = flowship.refused("generate", "-o", "b.png", status=1)
    assert "weights.bin has another sha256" in refused
    assert "remove this folder, and pack them again with flowship plan --pack-weights" in refused
    assert "verified" in flowship.ok("verify").out  # the bundle's own files are whole
    for file in cache.glob("*/weights.bin"):
        file.write_bytes(file.read_bytes()[:-4])
    assert "weights.bin has " in flowship.refused("generate", "-o", "b.png", status=1)
    for file in cache.glob("*/files.json"):
        file.write_text("[]")
    assert "are damaged" in flowship.refused("generate", "-o", "b.png", status=1)


def _pack() -> int:
    with Bundle.open() as bundle:
        engine = OnnxEngine(bundle, EngineOptions("fp32"))
        try:
            return engine.pack_weights()
        finally:
            engine.close()


@pytest.fixture
def cannot_open_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime 1.20 looks for the weights under another name than it wrote them."""
    load = OnnxEngine._load

    def fail(self: OnnxEngine, path: Path, options: object) -> object:
        if path.name == GRAPH:
            raise EngineError(f"onnxruntime cannot load {path}:\n  cannot get file size")
        return load(self, path, options)

    monkeypatch.setattr(OnnxEngine, "_load", fail)


def test_what_cannot_be_opened_again_is_not_kept(
    flowship: Terminal, cache: Path, cannot_open_packed: None
) -> None:
    with pytest.raises(EngineError, match=r"(?s)cannot pack .* and open it again: .*cannot get"):
        _pack()
    assert list(cache.iterdir()) == []
    ran = flowship("plan", "-q", "--threads", "1", "--pack-weights")
    assert ran.status == 1 and "cannot pack" in ran.err and ran.err.count("\n") == 1
    assert "not saved" in ran.out  # what was measured is not lost
    assert "left aside" not in flowship.ok("generate", "-o", "x.png").err


def test_what_cannot_be_opened_is_left_aside_with_one_note(
    flowship: Terminal,
    cache: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flowship.ok("generate", "-q", "-o", "a.png")
    _pack()
    read = Path.read_text

    def refuse(self: Path, *rest: str) -> str:
        if self.name == SUMS:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        note = flowship.ok("generate", "-q", "-o", "b.png").err
    assert note.startswith(f"packed weights are left aside, remove {cache}")
    assert note.endswith("files.json: Permission denied\n") and note.count("\n") == 1
    request.getfixturevalue("cannot_open_packed")
    note = flowship.ok("generate", "-q", "-o", "c.png").err
    assert note.startswith(f"packed weights are left aside, remove {cache}")
    assert note.endswith(": cannot get file size\n") and note.count("\n") == 1
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() == Path("c.png").read_bytes()
