"""Bundles that many tests need, exported once for all workers; the web app in its browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Terminal
from filelock import FileLock
from web_pages import ARGUMENTS, CHROMIUM, WEB_APP, need, opened, static_host

from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.progress import ProgressLine

if TYPE_CHECKING:
    from executorch_programs import Exported as ExecuTorchProgram
    from laptop_server import Running
    from tarflow_checkpoints import State

    from flowship.export.options import ConfigOverrides

GOLDEN = Path(__file__).parent / "golden"
CONDITIONAL = "tiny_cond_model_4_128_3_2_0.05"
UNCONDITIONAL = "tiny_uncond_model_2_64_2_1_0.10"
VOLUME_PRESERVING = "tiny_vp_model_2_64_3_2_0.08"
GOLDEN_NAMES = (CONDITIONAL, UNCONDITIONAL, VOLUME_PRESERVING)
TRAINED = Path(__file__).parents[1] / "apps" / "demo" / "fmnist_model_4_128_4_4_0.10.pth"


@dataclass(frozen=True)
class GoldenModel:
    """A checkpoint with what the reference implementation computes with it."""

    name: str
    checkpoint: Path
    arrays: dict[str, npt.NDArray[Any]]
    labels: list[int] | None


def golden_model(name: str) -> GoldenModel:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as archive:
        arrays = dict(archive)
    labels = facts["labels"] if facts["config"]["num_classes"] else None
    return GoldenModel(name, GOLDEN / f"{name}.pth", arrays, labels)


@pytest.fixture(params=GOLDEN_NAMES)
def golden(request: pytest.FixtureRequest) -> GoldenModel:
    return golden_model(request.param)


@pytest.fixture
def state() -> State:
    """The unconditional golden model: 2 blocks, 1 layer, 3 channels in patches of 2."""
    import torch

    result: State = torch.load(GOLDEN / f"{UNCONDITIONAL}.pth", weights_only=True)
    return result


@pytest.fixture
def flowship(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Terminal:
    """The command line, in an empty folder and with no plans saved by this machine's user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FLOWSHIP_TRACEBACK", "1")  # a mistake of ours is no refusal
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Terminal(capsys)


Exporter = Callable[..., Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Exporter:
    """export(checkpoint, targets, precisions=()) -> bundle folder; each is made once.

    ``make oldest`` has them made by other versions, in the folder that FLOWSHIP_BUNDLES names.
    """
    base = tmp_path_factory.getbasetemp()
    given = os.environ.get("FLOWSHIP_BUNDLES")
    folder = Path(given or (base if worker_id == "master" else base.parent) / "bundles")
    folder.mkdir(exist_ok=True)

    def export(
        checkpoint: Path,
        targets: tuple[str, ...] = ("onnx",),
        precisions: tuple[str, ...] = (),
        overrides: ConfigOverrides | None = None,
        **options: Any,
    ) -> Path:
        words = [checkpoint.stem, *targets, *precisions, *map(str, options.values())]
        path = folder / ("-".join(words).replace(" ", "") + ".flowship")
        with FileLock(f"{path}.lock"):
            if not path.exists():
                pytest.importorskip("torch", reason=f"{path.name} was not made before")
                from flowship.export.options import ConfigOverrides
                from flowship.export.pipeline import export_checkpoint
                from flowship.export.request import ExportRequest
                from flowship.export.targets import TargetOptions

                own = overrides or ConfigOverrides()
                request = ExportRequest(targets, precisions, own, TargetOptions(**options))
                export_checkpoint(checkpoint, path, request, ProgressLine(enabled=False))
        return path

    return export


# ---- ExecuTorch ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExecuTorchProgram]:
    """Lowered once for all tests of them: it takes most of a minute."""
    from executorch_programs import lower_programs

    return lower_programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def shim_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from executorch_programs import HAS_COMPILER

    from flowship.runtime.engines.executorch_shim import build

    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        if HAS_COMPILER:
            build.build()
    return cache


@pytest.fixture(params=["shim", "python"])
def executorch_runtime(
    request: pytest.FixtureRequest,
    shim_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Runs a test with each of the two runtimes."""
    from executorch_programs import HAS_COMPILER

    if request.param == "shim" and not HAS_COMPILER:
        pytest.skip("no C++ compiler")
    cache = shim_cache if request.param == "shim" else tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return str(request.param)


# ---- the server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """``flowship serve`` with the embedded bundle and a site of three files, in a thread."""
    from laptop_server import running_server

    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text("<!doctype html><title>flowship</title>")
    (site / "app.js").write_text("export {};")
    (site / "engine.wasm").write_bytes(b"\0asm")
    with running_server(web_app=site) as running:
        yield running


# ---- the web app --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `npm run build:site` makes, below the top of a host as on a project's pages."""
    need((WEB_APP / "index.html").is_file(), f"{WEB_APP} is not built: make web")
    top = tmp_path_factory.mktemp("host")
    shutil.copytree(WEB_APP, top / "flowship", copy_function=os.link)
    shutil.copytree(EMBEDDED, top / "flowship" / "bundle", copy_function=os.link)
    return top


@pytest.fixture(scope="module")
def static(site: Path) -> Iterator[str]:
    with static_host(site) as (address, _):
        yield f"{address}flowship/"


@pytest.fixture(scope="module")
def laptop() -> Iterator[str]:
    """``flowship serve`` with the embedded bundle, in a thread: its address with the token."""
    need((WEB_APP / "index.html").is_file(), f"{WEB_APP} is not built: make web")
    pytest.importorskip("uvicorn")
    from laptop_server import TOKEN, running_server

    with running_server(None, web_app=WEB_APP) as server:
        yield f"{server.origin}/#token={TOKEN}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    need(CHROMIUM.exists(), f"{CHROMIUM} is not there")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, laptop: str) -> Iterator[Any]:
    """The app with the laptop's engine."""
    with opened(chromium, laptop) as page:
        yield page


@pytest.fixture
def own_page(chromium: Any, static: str) -> Iterator[Any]:
    """The app with the browser's own engine."""
    with opened(chromium, static) as page:
        yield page


@pytest.fixture(params=["laptop", "browser"])
def any_page(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("page" if request.param == "laptop" else "own_page")
