"""Every precision and form of ONNX graphs runs, packed or not, in the oldest versions too.

``make oldest`` has the bundles made with the newest versions, and runs them here with the oldest
that ``pyproject.toml`` declares.
"""

from __future__ import annotations

import re
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import CONDITIONAL, GOLDEN, Exporter

from flowship.runtime import Bundle, EngineError, Flow
from flowship.runtime.engines import EngineOptions
from flowship.runtime.engines.onnx import OnnxEngine
from flowship.runtime.engines.onnx_forms import INT8_CACHE_SINCE, check_int8_cache_version
from flowship.runtime.engines.onnxruntime_import import (
    OLDEST,
    import_onnxruntime,
    outdated,
    version_numbers,
)
from flowship.runtime.verification import verify_bundle

CHECKPOINT = GOLDEN / f"{CONDITIONAL}.pth"
# Form and precisions of each bundle; other tests have the first three exported too.
BUNDLES = (
    ("gqa", ("fp32", "int8", "int4")),
    ("gqa", ("fp16",)),
    ("core", ("fp32",)),
    ("core", ("int4",)),
    ("gqa-nbits", ("int8", "int4")),
    ("gqa-nbits-kv8", ("int8",)),
)
VERSION: str = import_onnxruntime("these tests").__version__


@pytest.fixture(params=BUNDLES, ids=lambda case: f"{case[0]}-{'-'.join(case[1])}")
def case(request: pytest.FixtureRequest) -> tuple[str, tuple[str, ...]]:
    form, precisions = request.param
    return form, precisions


@pytest.fixture
def path(case: tuple[str, tuple[str, ...]], exported: Exporter) -> Path:
    form, precisions = case
    if form == "gqa":
        return exported(CHECKPOINT, ("onnx",), precisions)
    if form == "core":
        own = () if precisions == ("fp32",) else precisions
        return exported(CHECKPOINT, ("onnx",), own, onnx_form="core", windows=(1, 4))
    cache = "int8" if form == "gqa-nbits-kv8" else "float"
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("torch"):  # models of this size get floats unless they count as wide
            patch.setattr("flowship.export.targets.onnx.target.WIDE", 0)
        return exported(CHECKPOINT, ("onnx",), precisions, onnx_kv_cache=cache)


def _pictures(bundle: Path, precision: str) -> list[npt.NDArray[np.float32]]:
    with Flow.open(bundle, precision=precision, plan="default") as flow:
        return [
            flow.generate(seed=3, label=1).images,
            flow.generate(seed=3, label=1, guidance=2.0).images,
            flow.generate(seed=3, num_images=2, denoise=True).images,
        ]


def test_every_precision_runs_packed_or_not(
    case: tuple[str, tuple[str, ...]],
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    form, precisions = case
    with Bundle.open(path) as bundle:
        block = bundle.spec.ar_blocks[0].name
        for precision in precisions:
            steps = bundle.manifest.find("onnx", precision, "step", block)
            assert {step.form for step in steps} == {form}
            options = EngineOptions(precision)
            if form == "gqa-nbits-kv8" and version_numbers(VERSION) < INT8_CACHE_SINCE:
                with pytest.raises(EngineError, match=r"KV cache needs onnxruntime 1\.27"):
                    OnnxEngine(bundle, options)
                continue
            plain = _pictures(path, precision)
            with closing(OnnxEngine(bundle, options)) as engine:
                assert engine.pack_weights() > 0
            for packed, wanted in zip(_pictures(path, precision), plain, strict=True):
                np.testing.assert_array_equal(packed, wanted)


def test_it_is_what_was_exported(case: tuple[str, tuple[str, ...]], path: Path) -> None:
    if case[0] == "gqa-nbits-kv8" and version_numbers(VERSION) < INT8_CACHE_SINCE:
        pytest.skip("an int8 cache needs a newer version, see above")
    with Bundle.open(path) as bundle:
        checks = list(verify_bundle(bundle))
    assert len(checks) > 4 and all(check.passed for check in checks), checks


# ---- what the versions promise ------------------------------------------------------------------


def test_the_oldest_version_is_the_declared_one() -> None:
    declared = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
    wanted = ".".join(map(str, OLDEST))
    assert set(re.findall(r"onnxruntime(?:-gpu)?>=([\d.]+)", declared)) == {wanted}


def test_an_older_version_is_named_beside_what_it_cannot_do() -> None:
    assert outdated("1.20.0") == " (onnxruntime 1.20.0 is installed, flowship needs 1.23 or newer)"
    assert outdated("1.23.2") == outdated("1.32.0") == outdated("2.0.0rc1") == ""


def test_an_int8_cache_needs_a_newer_version() -> None:
    with pytest.raises(EngineError, match=r"needs onnxruntime 1\.27 or newer .*this is 1\.26\.0"):
        check_int8_cache_version("1.26.0")
    for version in ("1.27.0", "1.32.0+cpu"):
        check_int8_cache_version(version)
