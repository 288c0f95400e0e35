"""Builds the C library against the installed executorch wheel:

    python -m flowship.runtime.engines.executorch_shim.build

It needs a C++ compiler (g++, clang++, or the one that CXX names) and takes about 3 seconds. The
library goes to the user's cache folder under a name made of the version and the source's hash, so
an engine never picks up one that was built for something else.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ...errors import EngineError, FlowshipError, MissingExtraError
from ...extras import is_installed
from ...locks import private_folder
from ...user_folders import make_user_folder, user_folder

SOURCE = Path(__file__).with_name("shim.cpp")
LIBRARIES = (
    "executorch",
    "executorch_kernels_optimized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
)
# What the wheel's CMake configuration says: its C++ standard and the definitions of its headers.
FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-s"),
    *("-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED"),
)


@dataclass(frozen=True)
class Wheel:
    """The installed executorch: its version and the package's folder."""

    version: str
    root: Path


def find_wheel() -> Wheel | None:
    """Where executorch is installed; None if it is not. Imports nothing of it."""
    spec = importlib.util.find_spec("executorch") if is_installed("executorch") else None
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        version = importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Wheel(version, Path(next(iter(spec.submodule_search_locations))))


def find_library(wheel: Wheel) -> Path | None:
    """The library for this wheel, if it was built and this user can get at it."""
    path = user_folder("caches", library_name(wheel))
    return path if path and os.path.isfile(path) else None


def library_name(wheel: Wheel) -> str:
    """Of what it is built for; a file among the caches."""
    built_for = [wheel.version.encode(), os.fsencode(wheel.root), SOURCE.read_bytes()]
    digest = hashlib.sha256(b"\0".join(built_for)).hexdigest()[:16]
    return f"executorch-{wheel.version}-{digest}.so"


def build() -> Path:
    """Compile the library unless it is there; returns its path.

    Raises:
        MissingExtraError: executorch is not installed.
        EngineError: no compiler, no C++ runtime in the wheel, or the compiler failed.
        UsageError: caches have no place; the message names the variable that helps.
    """
    wheel = find_wheel()
    if wheel is None:
        raise MissingExtraError("the ExecuTorch library", "executorch", "executorch")
    if found := find_library(wheel):
        return found
    command = _compile_command(wheel)
    target = make_user_folder("caches") / library_name(wheel)
    with private_folder(target.parent, ".build-") as folder:
        output = folder / target.name
        done = subprocess.run(
            [*command, "-o", str(output)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise EngineError(f"{command[0]} failed:\n{done.stderr.strip()}")
        output.replace(target)
    return target


def _compile_command(wheel: Wheel) -> list[str]:
    headers, libraries = wheel.root / "include", wheel.root / "lib"
    for name in LIBRARIES:
        if not (libraries / f"lib{name}.so").is_file():
            raise EngineError(
                f"executorch {wheel.version} at {wheel.root} has no lib/lib{name}.so (wheels for "
                "Linux x86-64 from 1.5 have it): the Python package is used instead"
            )
    named = os.environ.get("CXX")
    compiler = named or shutil.which("g++") or shutil.which("clang++")
    if not compiler or not shutil.which(compiler):
        raise EngineError(
            f"no C++ compiler {named!r}, as CXX says"
            if named
            else "no C++ compiler: install g++ or clang++, or name one in the variable CXX"
        )
    portable = headers / "executorch/runtime/core/portable_type/c10"
    return [
        *(compiler, *FLAGS, "-isystem", str(headers), "-isystem", str(portable), str(SOURCE)),
        # Kernels and backend register themselves; nothing refers to them by name.
        *(f"-L{libraries}", "-Wl,--no-as-needed", *(f"-l{name}" for name in LIBRARIES)),
        f"-Wl,-rpath,{libraries}",
    ]


def main() -> int:
    try:
        print(build())
    except (FlowshipError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
