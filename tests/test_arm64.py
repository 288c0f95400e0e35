"""Another processor makes the same pictures: official aarch64 wheels under qemu-user.

Only with ``pytest -m slow -rP tests/test_arm64.py``; what it needs and found: docs/arm64.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from arm64.cpu_files import write_cpu_files
from arm64.make_pictures import CASES
from arm64.sysroot import TOOLS, Sysroot, SysrootUnavailable, cache_folder, open_sysroot

ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).parent / "arm64" / "make_pictures.py"
CPUS = ("cortex-a72", "max")  # plain NEON; all that qemu has: SVE, dot products, i8mm, bf16
SECONDS = 900  # limit of one run under qemu; 24 s and 162 s were measured


@dataclass(frozen=True)
class Made:
    """What make_pictures.py printed, a record of each case, and the arrays that it wrote."""

    said: dict[str, dict[str, Any]]
    arrays: dict[str, npt.NDArray[Any]]


def _made(printed: str, out: Path) -> Made:
    records = [json.loads(line) for line in printed.splitlines()]
    with np.load(out, allow_pickle=False) as archive:
        return Made({record["case"]: record for record in records}, dict(archive))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds this checkout's runtime as the package flowship."""
    folder = tmp_path_factory.mktemp("packages")
    package = folder / "flowship"
    package.mkdir()
    for name, source in {"__init__.py": "runtime/_toplevel.py", "runtime": "runtime"}.items():
        (package / name).symlink_to(ROOT / source)
    return folder


@pytest.fixture(scope="module")
def arm64() -> Sysroot:
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this machine is an arm64 one: it has no other processor to compare with")
    try:
        return open_sysroot(cache_folder())
    except SysrootUnavailable as error:
        pytest.skip(f"no aarch64 system: {error}")


@pytest.fixture(scope="module")
def made_here(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("here") / "here.npz"
    command = [sys.executable, "-B", str(SCRIPT), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return _made(ran.stdout, out)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_same_noise_and_pictures(
    cpu: str, arm64: Sysroot, made_here: Made, packages: Path, tmp_path: Path
) -> None:
    """Tier L1: float32, the same bundle and engine, another processor."""
    start, out = time.monotonic(), tmp_path / "arm64.npz"
    printed = arm64.python([str(SCRIPT), str(out)], cpu=cpu, path=packages, seconds=SECONDS)
    there, seconds = _made(printed, out), time.monotonic() - start
    assert set(there.said) == set(made_here.said) == set(CASES)
    for name, record in there.said.items():
        here = made_here.said[name]
        assert (record["machine"], here["machine"]) == ("aarch64", platform.machine())
        for key in ("onnxruntime", "numpy", "bundle", "noise"):
            assert record[key] == here[key], f"{name}: {key} is another one"
        found = compare(_case(made_here, name), _case(there, name))
        print(f"{cpu} {name}: {found}")
        found.check()
    print(f"{cpu}: {sum(len(_case(there, name)['images']) for name in CASES)} pictures,", end=" ")
    print(f"{seconds:.0f} s with the start of Python")


def test_the_cases_tell_errors_apart(made_here: Made) -> None:
    """Each case makes other pictures, with something on them."""
    hashes = {record["pictures"] for record in made_here.said.values()}
    assert len(hashes) == len(CASES)
    for name in CASES:
        for picture in _case(made_here, name)["pictures"]:
            assert np.ptp(picture) > 100


# ---- comparing -----------------------------------------------------------------------------------

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """How two runs of a case differ.

    Attributes:
        noise_bits: values of noise whose bits differ.
        max_levels: largest difference of two 8-bit values.
        equal_levels: share of equal 8-bit values.
        max_abs_error: of float32 pictures, not clipped.
    """

    noise_bits: int
    max_levels: int
    equal_levels: float
    max_abs_error: float

    def check(self) -> None:
        assert self.noise_bits == 0, self
        assert self.max_levels <= 1, self
        # Rounding moves a value across a half with a probability of about 255 times its error.
        assert self.equal_levels >= 0.99, self


def _case(made: Made, name: str) -> Arrays:
    return {key: made.arrays[f"{name}/{key}"] for key in ("noise", "images", "pictures")}


def compare(a: Arrays, b: Arrays) -> Difference:
    assert all(a[key].shape == b[key].shape and a[key].dtype == b[key].dtype for key in a)
    bits_a, bits_b = a["noise"].view(np.uint32), b["noise"].view(np.uint32)
    levels = np.abs(a["pictures"].astype(np.int16) - b["pictures"])
    return Difference(
        noise_bits=int((bits_a != bits_b).sum()),
        max_levels=int(levels.max()),
        equal_levels=float((levels == 0).mean()),
        max_abs_error=float(np.abs(a["images"] - b["images"]).max()),
    )


def test_compare_sees_what_it_must() -> None:
    a: Arrays = {
        "noise": np.zeros((1, 4, 16), np.float32),
        "images": np.zeros((1, 1, 16, 16), np.float32),
        "pictures": np.full((1, 1, 16, 16), 128, np.uint8),
    }
    compare(a, a).check()
    signed = a["noise"].copy()
    signed[0, 0, 0] = -0.0  # equal as a number, not as bits
    assert compare(a, {**a, "noise": signed}).noise_bits == 1
    for level, passes in ((127, True), (129, True), (126, False), (130, False)):
        pictures = a["pictures"].copy()
        pictures[0, 0, 3, 3] = level
        found = compare(a, {**a, "pictures": pictures})
        assert found.max_levels == abs(level - 128) and found.equal_levels == 255 / 256
        assert (found.max_levels <= 1) is passes
        if not passes:
            with pytest.raises(AssertionError, match=f"max_levels={found.max_levels}"):
                found.check()


# ---- the system ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="qemu-user runs on Linux")
def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(SysrootUnavailable, match="qemu-aarch64-static is not installed: apt-get"):
        open_sysroot(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="qemu-user runs on Linux")
def test_a_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, folder = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    for name in TOOLS:
        (programs / name).write_text("#!/bin/sh\necho 'E: no such archive' >&2\nexit 3\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SysrootUnavailable, match="debootstrap ended with 3: E: no such archive"):
        open_sysroot(folder)
    assert [path.name for path in folder.iterdir()] == ["setup.lock"]


def test_the_cache_folder_is_the_users_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWSHIP_ARM64", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path.resolve() / "flowship" / "arm64"
    monkeypatch.setenv("FLOWSHIP_ARM64", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path.resolve() / "mine"


def test_the_described_processor_is_consistent(tmp_path: Path) -> None:
    write_cpu_files(tmp_path)
    base = tmp_path / "sys" / "devices" / "system" / "cpu"
    cores = sorted(path.name for path in base.glob("cpu?"))
    listed = (tmp_path / "proc" / "cpuinfo").read_text().count("processor")
    assert len(cores) == listed == int((base / "kernel_max").read_text()) + 1
    midr = int((base / "cpu0" / "regs" / "identification" / "midr_el1").read_text(), 16)
    said = (tmp_path / "proc" / "cpuinfo").read_text()
    assert f"CPU implementer\t: {midr >> 24:#x}\n" in said
    assert f"CPU part\t: {midr >> 4 & 0xFFF:#05x}\n" in said
