"""ExecuTorch without torch: what is built, imported and missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from executorch_programs import HAS_COMPILER, Exported

from flowship.runtime.engines import executorch_program
from flowship.runtime.engines.executorch_shim import build
from flowship.runtime.errors import EngineError, MissingExtraError


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_wheel", lambda: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowship\[executorch\]'"):
        executorch_program.find_runtime()
    with pytest.raises(MissingExtraError, match=r"pip install 'flowship\[executorch\]'"):
        build.build()


def test_build_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match=r"no C\+\+ compiler 'no-such-compiler'"):
        build.build()
    monkeypatch.setattr(build, "LIBRARIES", ("executorch_nowhere",))
    with pytest.raises(EngineError, match=r"has no lib/libexecutorch_nowhere\.so"):
        build.build()


def test_engine_module_imports_neither_package() -> None:
    code = (
        "import sys, flowship.runtime.engines.executorch; "
        "sys.exit('torch' in sys.modules or 'executorch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_shim_runs_without_torch(programs: dict[str, Exported], shim_cache: Path) -> None:
    exported = programs["dynamic0"]
    D, C = exported.config.patch_dim, exported.config.channels
    code = f"""
import sys, numpy as np
from pathlib import Path
from flowship.runtime.engines.executorch_program import find_runtime
program = find_runtime().open(Path({str(exported.path)!r}))
x, context = np.ones((1, 3, {D}), np.float32), np.ones((1, 3, {C}), np.float32)
ab = np.zeros((1, 3, {2 * D}), np.float32)
program.bind("step", [x, context, np.arange(3)], ab)()
program.close()
sys.exit(not ab.any() or "torch" in sys.modules)
"""
    environment = {"XDG_CACHE_HOME": str(shim_cache), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 0
