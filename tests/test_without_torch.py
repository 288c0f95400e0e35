"""The runtime needs numpy, pillow and one engine: no torch, no exporters, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Imports with everything blocked that the runtime promises not to need.
BLOCKED = """
import sys

class Blocker:
    names = {"torch", "onnx", "executorch", "coremltools", "safetensors", "onnxscript"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""
IMPORT_ALL = """
import importlib, pkgutil
import flowship.runtime as runtime

# Their modules say which package they need; they are imported for an engine that is asked for.
for module in pkgutil.walk_packages(runtime.__path__, runtime.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
mine = {name.partition(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)
print(*sorted(name for name in mine if not name.startswith("_")))
"""
NO_NETWORK = """
import socket, sys

def refuse(*_, **__):
    raise AssertionError("the runtime opened a socket")

socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse
"""
GENERATE = """
import sys
from flowship.runtime import cli
sys.exit(cli.main(["generate", "--label", "sneaker", "--seed", "7", "-o", "sneaker.png", "-q"]))
"""
# numpy, pillow, and what they bring.
ALLOWED = {"flowship", "numpy", "PIL", "olefile", "defusedxml"}


def _python(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_module_imports_without_heavy_packages(tmp_path: Path) -> None:
    code = f"{BLOCKED}\nbefore = {{n.partition('.')[0] for n in sys.modules}}\n{IMPORT_ALL}"
    assert set(_python(code, tmp_path).split()) <= ALLOWED


def test_generates_without_heavy_packages(tmp_path: Path) -> None:
    _python(BLOCKED + GENERATE, tmp_path)
    assert (tmp_path / "sneaker.png").exists()


def test_generates_without_a_socket(tmp_path: Path) -> None:
    _python(NO_NETWORK + GENERATE, tmp_path)
    assert (tmp_path / "sneaker.png").exists()


@pytest.mark.parametrize(
    "call",
    [
        "socket.socket().connect(('127.0.0.1', 9))",
        "socket.create_server(('127.0.0.1', 0))",
        "socket.getaddrinfo('localhost', 80)",
    ],
)
def test_a_socket_would_be_seen(call: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the runtime opened a socket"):
        _python(f"{NO_NETWORK}\n{call}", tmp_path)


def test_generates_without_a_network(tmp_path: Path) -> None:
    """Native code too, which opens sockets without Python."""
    unshare = [str(shutil.which("unshare")), "-rn"]
    if unshare[0] == "None" or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("this system has no network namespaces for users")
    _python(GENERATE, tmp_path)
    first = (tmp_path / "sneaker.png").read_bytes()
    (tmp_path / "sneaker.png").unlink()
    subprocess.run([*unshare, sys.executable, "-c", GENERATE], cwd=tmp_path, check=True)
    assert (tmp_path / "sneaker.png").read_bytes() == first


# ---- an installed wheel -------------------------------------------------------------------------


def _pip(python: Path | str, *words: str, cwd: Path | None = None) -> str:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *words]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if ran.returncode and any(
        sign in ran.stderr for sign in ("Could not find a version", "ConnectionError", "Retrying")
    ):
        pytest.skip(f"pip reaches no package registry: {ran.stderr.splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout."""
    pytest.importorskip("hatchling", reason="the build backend is not installed: extra dev")
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    _pip(sys.executable, *words, str(ROOT))
    (built,) = folder.glob("flowship-*.whl")
    return built


def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = archive.read(metadata).decode().splitlines()
    assert {name.split("/")[0] for name in names} == {"flowship", metadata.split("/")[0]}
    embedded = "flowship/runtime/embedded/fashion-mnist.flowship"
    bundle = ROOT / "runtime" / "embedded" / "fashion-mnist.flowship"
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in ("manifest.json", *manifest["files"]):
        assert f"{embedded}/{name}" in names
    assert "flowship/runtime/embedded/fashion_mnist_test_512.npz" in names
    assert {"flowship/__init__.py", "flowship/py.typed"} <= names
    web = {name for name in names if name.startswith("flowship/apps/web/")}
    built = ROOT / "apps" / "web"
    on_disk = {p.relative_to(built).as_posix() for p in (built / "dist").rglob("*") if p.is_file()}
    assert web == {f"flowship/apps/web/{name}" for name in on_disk}  # and no sources
    for name in names:
        assert not name.endswith((".pth", ".safetensors", ".pyc", ".map", "package.json")), name
        assert not {"tests", "node_modules", "__pycache__"} & set(name.split("/")), name
    # Nothing without an extra needs more than numpy and pillow.
    plain = [
        line.split()[1].split(">")[0]
        for line in said
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert sorted(plain) == ["numpy", "pillow"]


def test_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """``pip install flowship[onnx]`` brings no torch, and works at once."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    _pip(scripts / "python", "install", "-q", f"{wheel}[onnx]")
    installed = {
        entry["name"].lower()
        for entry in json.loads(_pip(scripts / "python", "list", "--format", "json"))
    }
    assert {"flowship", "numpy", "pillow", "onnxruntime"} <= installed
    assert not {"torch", "onnx", "executorch", "coremltools", "safetensors"} & installed

    def run(*words: str) -> str:
        command = [str(scripts / "flowship"), *words]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    run("generate", "--label", "sneaker", "--seed", "7", "-o", "sneaker.png")
    found = json.loads(run("score", "embedded", "sneaker.png", "--label", "sneaker", "--json"))
    assert 0 < found["mean_bits_per_dim"] < 12
    assert run("verify").splitlines()[-1] == "fashion-mnist: verified"
    checkpoint = ROOT / "tests" / "golden" / "tiny_uncond_model_2_64_2_1_0.10.pth"
    for command in ("export", "inspect"):
        ran = subprocess.run(
            [str(scripts / "flowship"), command, str(checkpoint)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 1
        assert ran.stderr.count("\n") == 1
        assert "pip install 'flowship[export]'" in ran.stderr
