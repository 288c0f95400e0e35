"""The engine for Core ML on a Mac, against a stand-in; what each engine imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coreml_packages import UNCOND, Exports, interpreter, run_all

from flowship.runtime.engines.base import EngineOptions
from flowship.runtime.engines.coreml import CoreMLEngine, check_system, open_coreml
from flowship.runtime.engines.coreml_stage import function_name
from flowship.runtime.engines.coremltools_import import import_coremltools
from flowship.runtime.engines.mil import Executable, Package
from flowship.runtime.errors import EngineError, MissingExtraError, UsageError


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


class _ComputeUnit(Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


class _StandIn:
    """The calls of coremltools that the engine makes, in front of the interpreter."""

    __version__ = "9.0"
    ComputeUnit = _ComputeUnit

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.loaded: list[str] = []
        utils = SimpleNamespace(compile_model=self.compile_model)
        self.models = SimpleNamespace(utils=utils, CompiledMLModel=self.load)

    def compile_model(self, model: str, destination_path: str) -> str:
        assert isinstance(model, str) and model.endswith(".mlpackage")
        assert destination_path.endswith(".mlmodelc") and not Path(destination_path).exists()
        self.compiled.append(shutil.copytree(model, destination_path))
        return destination_path

    def load(self, path: str, compute_units: _ComputeUnit, function_name: str) -> _LoadedStandIn:
        assert path in self.compiled and compute_units is _ComputeUnit.CPU_AND_GPU
        self.loaded.append(function_name)
        return _LoadedStandIn(Executable(Package(path), function_name))


class _LoadedStandIn:
    def __init__(self, executable: Executable) -> None:
        self.executable = executable

    def make_state(self) -> dict[str, Any]:
        return self.executable.make_state()

    def predict(self, data: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
        for name, kind in self.executable.inputs.items():
            assert data[name].dtype == kind.dtype.storage and data[name].flags.c_contiguous
        return self.executable.run(data, state)


@pytest.mark.parametrize("branches", [1, 2])
def test_macos_engine_makes_the_right_calls(interpreted: Exports, branches: int) -> None:
    exported, stand_in = interpreted(UNCOND, 1), _StandIn()
    x, classes = exported.random_patches(7), exported.class_rows(*[0] * branches)
    engine = CoreMLEngine(exported.bundle, EngineOptions("fp16", device="gpu"), stand_in)
    assert (engine.info.name, engine.info.device) == ("coreml", "gpu")
    for _ in range(2):
        stage = engine.open(exported.stage, branches=branches)
        found = run_all(stage, exported, x, classes, 9)  # 8 + 1
        stage.close()
        with pytest.raises(EngineError, match="the stage is closed"):
            stage.step(x[:, :1], 0)
    expected = run_all(
        interpreter(exported).open(exported.stage, branches=branches), exported, x, classes, 9
    )
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert len(stand_in.compiled) == 1  # once for both pictures
    assert sorted(stand_in.loaded) == [function_name(branches, w) for w in (1, 8)]
    engine.close()
    assert not Path(stand_in.compiled[0]).exists()


def test_macos_engine_refuses(interpreted: Exports) -> None:
    exported = interpreted(UNCOND, 1)
    with pytest.raises(UsageError, match="no device 'cuda': choose from cpu, gpu, ane, all"):
        CoreMLEngine(exported.bundle, EngineOptions("fp16", device="cuda"), _StandIn())
    with pytest.raises(EngineError, match=r"macOS only; use --engine coreml-interpreter to check"):
        check_system("linux", "")
    with pytest.raises(EngineError, match=r"need macOS 15, this is 14\.5"):
        check_system("darwin", "14.5")
    check_system("darwin", "15.1")
    if sys.platform != "darwin":
        with pytest.raises(EngineError, match="macOS only"):
            open_coreml(exported.bundle, EngineOptions("fp16"))
    broken = _StandIn()
    broken.models.utils.compile_model = lambda *_: (_ for _ in ()).throw(RuntimeError("no disk"))
    engine = CoreMLEngine(exported.bundle, EngineOptions("fp16"), broken)
    with pytest.raises(EngineError, match=r"Core ML cannot compile .*block1.mlpackage: no disk"):
        engine.open(exported.stage)
    engine.close()


def test_missing_coremltools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowship\[coreml\]'"):
        import_coremltools("the engine coreml")


def test_interpreter_needs_numpy_only() -> None:
    code = (
        "import sys; import flowship.runtime.engines.coreml_interpreter; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'coremltools', 'google.protobuf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
