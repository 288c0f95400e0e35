"""A Debian root for aarch64 with official wheels, kept in a folder and run with qemu-user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from .cpu_files import write_cpu_files

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("numpy", "onnxruntime", "pillow")
# The newest first; pip takes a wheel of any of these.
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
TOOLS = {
    "qemu-aarch64-static": "qemu-user-static",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
}  # program to Debian package
SETUP_SECONDS = 1800  # limit of one download


class SysrootUnavailable(Exception):
    """The root cannot be had here; the message says why, and what to do."""


@dataclass(frozen=True)
class Sysroot:
    """Where the parts lie.

    Attributes:
        qemu: the emulator, a program of this machine.
        root: a Debian system for aarch64, with Python of version PYTHON.
        site: wheels for it, of the versions that are installed here.
    """

    qemu: str
    root: Path
    site: Path

    def python(self, words: Sequence[str], *, cpu: str, path: Path, seconds: float) -> str:
        """Run the root's Python with ``words`` and return what it prints.

        Args:
            cpu: a processor in qemu's words; ``cortex-a72`` is plain NEON, ``max`` has all it can.
            path: a folder of packages, searched after the wheels.
            seconds: limit.

        Raises:
            RuntimeError: it failed; the message holds what it said on stderr.
        """
        interpreter = self.root / "usr" / "bin" / f"python{PYTHON}"
        command = [self.qemu, "-cpu", cpu, "-L", str(self.root), str(interpreter), "-s", *words]
        # An environment of its own: the host's may name libraries and modules of the host.
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.root),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([str(self.site), str(path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=seconds
        )
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stderr}")
        return ran.stdout


def cache_folder() -> Path:
    """``$FLOWSHIP_ARM64``, else flowship/arm64 in ``$XDG_CACHE_HOME`` or ~/.cache."""
    if chosen := os.environ.get("FLOWSHIP_ARM64"):
        return Path(chosen).resolve()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).resolve() / "flowship" / "arm64"


def open_sysroot(folder: Path) -> Sysroot:
    """The root in ``folder``; what is missing there is downloaded first.

    Raises:
        SysrootUnavailable: a program, the Debian archive or the wheels cannot be had.
    """
    if sys.platform != "linux":
        raise SysrootUnavailable(f"qemu-user runs on Linux, this is {sys.platform}")
    qemu = _find_tool("qemu-aarch64-static")
    versions = [f"{package}=={version(package)}" for package in PACKAGES]
    root, site = folder / SUITE, folder / "-".join(["wheels", *versions]).replace("==", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "setup.lock"):
        if not root.exists():
            _make_root(root)
        if not site.exists():
            _install_wheels(site, versions)
        write_cpu_files(root)
    return Sysroot(qemu, root, site)


def _make_root(root: Path) -> None:
    """Unpack the packages of Debian and Python; no script of theirs is run."""
    debootstrap, dpkg = _find_tool("debootstrap"), _find_tool("dpkg-deb")
    with TemporaryDirectory(dir=root.parent, prefix="partial-") as scratch:
        downloads, unpacked = Path(scratch, "downloads"), Path(scratch, "root")
        words = ["--arch=arm64", "--variant=minbase", "--include=python3,libstdc++6"]
        # Without the archive's keyring debootstrap would go on with packages that nobody signed.
        words.append("--force-check-gpg")
        _run([debootstrap, "--download-only", *words, SUITE, str(downloads)])
        for package in sorted(downloads.glob("var/cache/apt/archives/*.deb")):
            _run([dpkg, "--extract", str(package), str(unpacked)])
        unpacked.rename(root)


def _install_wheels(site: Path, versions: Sequence[str]) -> None:
    """Unpack the packages' wheels for aarch64, and those that they need."""
    with TemporaryDirectory(dir=site.parent, prefix="partial-") as scratch:
        unpacked = Path(scratch, "site")
        words = ["install", "--disable-pip-version-check", "--quiet", "--target", str(unpacked)]
        words += ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
        words += [word for platform in PLATFORMS for word in ("--platform", platform)]
        _run([sys.executable, "-m", "pip", *words, *versions])
        unpacked.rename(site)


def _find_tool(name: str) -> str:
    # debootstrap lies in sbin, which is not on everybody's path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if not found:
        raise SysrootUnavailable(f"{name} is not installed: apt-get install {TOOLS[name]}")
    return found


def _run(command: Sequence[str]) -> None:
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SETUP_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SysrootUnavailable(f"{command[0]} took more than {SETUP_SECONDS} s") from None
    if ran.returncode:
        said = (ran.stderr.strip() or ran.stdout.strip()).splitlines() or ["it says nothing"]
        raise SysrootUnavailable(f"{command[0]} ended with {ran.returncode}: {said[-1]}")
