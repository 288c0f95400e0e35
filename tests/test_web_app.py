"""The web app as people use it: the built files in Chromium, from a static host and a laptop."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal
from PIL import Image

from flowship.benchmarks.formats import read_rows
from flowship.runtime import Flow
from flowship.runtime.bundle import EMBEDDED

WEB = Path(__file__).parents[1] / "apps" / "web"
# A build elsewhere can be tested too.
WEB_APP = Path(os.environ.get("FLOWSHIP_WEB_APP", WEB / "dist"))
AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = Path("/usr/bin/chromium")
LAPTOP = "laptop.test"  # this machine by a name: to browsers no secure context, as from a phone
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {LAPTOP} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
PAGES = ("create", "inside", "morph", "gallery", "device", "privacy")
# The rows of the gallery, oldest first: [[recipe, pixels], ...].
READ_GALLERY = """() => new Promise((resolve, reject) => {
  const asked = indexedDB.open("flowship-gallery");
  asked.onerror = () => reject(asked.error);
  asked.onsuccess = () => {
    const rows = asked.result.transaction("pictures").objectStore("pictures").getAll();
    rows.onsuccess = () => resolve(rows.result.map(r => [r.recipe, Array.from(r.pixels.data)]));
  };
})"""
DROP = """([name, kind, data]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  const moved = new DataTransfer();
  moved.items.add(new File([bytes], name, { type: kind }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, cancelable: true }));
}"""
# window.shifts: how far things that nobody moved have moved (CLS).
WATCH_SHIFTS = """
  window.shifts = 0;
  new PerformanceObserver(list => list.getEntries().forEach(entry => window.shifts += entry.value))
    .observe({ type: "layout-shift", buffered: true });
"""
FOUR_CORES = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 4 })"
# What is shown while a picture grows, as [caption, picture].
WATCH_PROGRESS = """() => {
  window.shown = [];
  const [caption, canvas] = ["p.caption", "canvas.big"].map(q => document.querySelector(q));
  new MutationObserver(() => window.shown.push([caption.textContent, canvas.toDataURL()]))
    .observe(caption, { childList: true });
}"""
# The app's worker once more, to call as the page does: window.call(method, ...args).
START_WORKER = """() => {
  const loaded = performance.getEntriesByType("resource").map(entry => entry.name);
  const script = loaded.find(name => /worker-[^/]*[.]js$/.test(name));
  const worker = new Worker(script, { type: "module" });
  worker.postMessage({ kind: "start", base: document.baseURI });
  let last = 0;
  window.call = (method, ...args) => new Promise((resolve, reject) => {
    const id = ++last;
    worker.addEventListener("message", ({ data }) => {
      if (data.id !== id || data.kind === "event") return;
      if (data.kind === "result") resolve(data.result); else reject(new Error(data.error.message));
    });
    worker.postMessage({ kind: "call", id, method, args });
  });
}"""
OPEN = "threads => call('open', 'embedded', { threads }).then(info => info.engine.threads)"
GENERATE = """request => call("generate", request).then(
  made => [1000 * made.seconds, Array.from(made.pixels.data)])"""
SNEAKER = {"seed": "7", "label": 7, "guidance": 1.5}


def need(condition: bool, reason: str) -> None:
    """Skip without it, but not where everything has to be there."""
    if not condition:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


# ---- hosts and browser --------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def static_host(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A host without any header of its own: its address, and what ends it."""
    handler = functools.partial(_Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(30)

    try:
        yield f"http://127.0.0.1:{server.server_port}/", stop
    finally:
        stop()


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


@contextmanager
def opened(chromium: Any, address: str, script: str = "", **options: Any) -> Iterator[Any]:
    """A fresh profile on a phone's screen; no request may leave the origin, nothing may throw.

    ``script`` runs before the page's own.
    """
    phone = {"width": 360, "height": 740}
    context = chromium.new_context(**{"viewport": phone, "service_workers": "block", **options})
    page, requests, errors = context.new_page(), list[str](), list[str]()
    context.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(20_000)
    page.add_init_script(script)
    try:
        page.goto(address)
        ready(page)
        yield page
        origin = "/".join(address.split("/")[:3]) + "/"
        assert not errors
        assert requests
        assert [url for url in requests if not url.startswith((origin, "blob:", "data:"))] == []
    finally:
        context.close()


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


# ---- what people do -----------------------------------------------------------------------------


def ready(page: Any) -> None:
    page.get_by_role("button", name="Make a picture", disabled=False).wait_for()


def make(page: Any, seed: int = 7) -> None:
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Make a picture").click()
    page.locator(".caption", has_text=re.compile(f"seed {seed}, made in")).wait_for()
    page.locator("main button.primary:enabled").first.wait_for()


def show(page: Any, name: str) -> None:
    page.locator(f'a[href="#{name}"]').last.click()
    page.locator(f'a[href="#{name}"][aria-current]').wait_for()


def denoise(page: Any) -> Any:
    """The switch."""
    return page.get_by_role("switch", name="Denoise")


def gallery(page: Any) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """Recipe and pixels of each picture, oldest first."""
    return [(json.loads(r), np.array(p, np.uint8)) for r, p in page.evaluate(READ_GALLERY)]


def drop(page: Any, path: Path, kind: str) -> None:
    page.evaluate(DROP, [path.name, kind, base64.b64encode(path.read_bytes()).decode()])


def open_bundle(page: Any, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a bundle").click()
    chooser.value.set_files(path)


def pythons_picture(
    seed: int, label: str | None = None, guidance: float = 0.0, denoise: bool = False
) -> Any:
    with Flow.open(threads=1) as flow:
        found = flow.generate(seed=seed, label=label, guidance=guidance, denoise=denoise)
    return found.pictures().ravel()


def made_here(recipe: Any) -> bool:
    """In the browser, not by the laptop's engine."""
    return str(recipe["engine_version"]).startswith("onnxruntime-web")


def largest_difference(a: Any, b: Any) -> int:
    return int(np.abs(np.subtract(a, b, dtype=np.int16)).max())


# ---- the built files ----------------------------------------------------------------------------


def test_build_keeps_the_files_that_are_there(site: Path) -> None:
    """The service worker's list is of these very files, and WebGPU's are for later."""
    top = site / "flowship"
    text = (top / "sw.js").read_text("utf-8")
    lists = [
        json.loads(json.loads(f'"{found}"')) for found in re.findall(r'"([{[]\\".*?[}\]])"', text)
    ]
    files, on_demand = lists
    there = {path.relative_to(top).as_posix(): path for path in top.rglob("*") if path.is_file()}
    assert set(files) == set(there) - {"sw.js"}
    for name, start in files.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest().startswith(start), name
    kept = sum(there[name].stat().st_size for name in files if name not in on_demand)
    assert kept < 30e6
    assert not list(top.rglob("*.map"))


# ---- generating ---------------------------------------------------------------------------------


def test_picture_is_pythons_and_stays_in_the_gallery(any_page: Any) -> None:
    page = any_page
    page.evaluate(WATCH_PROGRESS)
    page.get_by_label("sneaker", exact=True).check()
    make(page, 7)
    shown = page.evaluate("window.shown")
    assert len({picture for _, picture in shown}) >= 3, "the picture did not grow"
    assert re.match(r"Block 1 of 4: \d+ of 49 patches", shown[0][0])
    page.reload()  # the gallery and the session's token are still there
    ready(page)
    ((recipe, pixels),) = gallery(page)
    assert (recipe["seeds"], recipe["labels"], recipe["guidance"]) == ([7], [7], 1.5)
    allowed = 1 if made_here(recipe) else 0
    assert largest_difference(pixels, pythons_picture(7, "sneaker", 1.5)) <= allowed
    show(page, "gallery")
    page.locator(".thumb").first.wait_for()
    assert page.locator(".thumb").count() == 1


def test_denoised_by_the_laptop(page: Any) -> None:
    denoise(page).focus()
    page.keyboard.press("Space")
    make(page, 6)
    ((recipe, pixels),) = gallery(page)
    assert recipe["denoise"] is True
    assert np.array_equal(pixels, pythons_picture(6, "t-shirt", 1.5, denoise=True))
    assert not np.array_equal(pixels, pythons_picture(6, "t-shirt", 1.5))


def test_many_can_be_cancelled(any_page: Any) -> None:
    any_page.get_by_label("How many").fill("64")
    any_page.get_by_role("button", name="Make a picture").click()
    any_page.locator(".progress-text", has_text="left").wait_for()
    any_page.get_by_role("button", name="Cancel").click()
    any_page.locator(".message", has_text="Cancelled").wait_for()
    assert len(gallery(any_page)) < 64


def test_browser_computes_behind_a_server_without_a_token(chromium: Any, laptop: str) -> None:
    """The server has the embedded bundle where the app looks for it."""
    with opened(chromium, laptop.partition("#")[0]) as page:
        make(page, 5)
        ((recipe, pixels),) = gallery(page)
        assert made_here(recipe)
        assert largest_difference(pixels, pythons_picture(5, "t-shirt", 1.5)) <= 1
        show(page, "privacy")  # lists what the engine's worker asked for, too
        page.get_by_role("cell", name="/bundle/onnx/fp32/block0.weights.bin").wait_for()


def test_offline_after_the_first_load(chromium: Any, site: Path) -> None:
    """The host is killed; the page comes back isolated and makes the same bits, also in threads."""
    options = {"service_workers": "allow"}
    with static_host(site) as (top, stop), opened(chromium, f"{top}flowship/", **options) as page:
        make(page, 3)
        page.evaluate("navigator.serviceWorker.ready.then(() => undefined)")
        page.wait_for_function("navigator.serviceWorker.controller !== null")
        check_installable(page)
        stop()
        page.reload()
        ready(page)
        make(page, 3)
        before, after = gallery(page)
        assert before[0] == after[0]
        assert np.array_equal(before[1], after[1])
        assert page.evaluate("crossOriginIsolated")
        expected = pythons_picture(7, "sneaker", 1.5)
        made = []
        for threads in (1, 2):
            page.evaluate(START_WORKER)
            assert page.evaluate(OPEN, threads) == threads
            made.append(page.evaluate(GENERATE, SNEAKER)[1])
        assert made[0] == made[1]
        assert largest_difference(made[0], expected) <= 1
        kept = page.evaluate(
            "caches.open('flowship-files').then(c => c.keys().then(k => k.map(r => r.url)))"
        )
        assert kept
        assert not [url for url in kept if "asyncify" in url or "webgpu" in url]
        show(page, "privacy")
        page.locator(".number", has_text="None").wait_for()


def check_installable(page: Any) -> None:
    devtools = page.context.new_cdp_session(page)
    assert devtools.send("Page.getAppManifest")["errors"] == []
    found = devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]
    # A context of the tests is incognito; that is all that is wrong.
    assert {error["errorId"] for error in found} <= {"in-incognito"}


# ---- pictures from elsewhere --------------------------------------------------------------------


def test_dropped_png_with_a_recipe_is_made_again(own_page: Any, flowship: Terminal) -> None:
    arguments = ("--seed", 11, "--label", "bag", "--guidance", 2, "--threads", 1, "-o", "bag.png")
    flowship.ok("generate", *arguments)
    drop(own_page, Path("bag.png"), "image/png")
    own_page.get_by_text("This picture carries its recipe").wait_for()
    own_page.get_by_role("button", name="Make it again").click()
    verdict = own_page.locator(".verdict")
    verdict.wait_for()
    assert "Bit for bit the same: all 784 values" in verdict.inner_text()
    ((recipe, _),) = gallery(own_page)
    assert (recipe["seeds"], recipe["labels"], recipe["guidance"]) == ([11], [8], 2)


def test_saved_png_is_made_again_by_python(own_page: Any, flowship: Terminal) -> None:
    """Denoised in the browser: Python makes the picture again, and writes the same recipe."""
    denoise(own_page).check()
    make(own_page, 12)
    show(own_page, "gallery")
    own_page.locator(".thumb").first.click()
    with own_page.expect_download() as download:
        own_page.get_by_role("button", name="Save PNG").click()
    download.value.save_as("saved.png")
    flowship.ok("generate", "--like", "saved.png", "--threads", 1, "-o", "again.png")
    levels, texts = dict[str, Any](), dict[str, dict[str, str]]()
    for name in ("again.png", "saved.png"):
        with Image.open(name) as image:
            levels[name], texts[name] = np.asarray(image).ravel(), dict(image.text)
            recipe = json.loads(texts[name]["flowship"])
            version = recipe["engine_version"]
            texts[name]["flowship"] = texts[name]["flowship"].replace(version, "")
            assert recipe["denoise"] is True
    ((_, pixels),) = gallery(own_page)
    assert np.array_equal(levels["saved.png"], pixels)
    assert largest_difference(levels["saved.png"], levels["again.png"]) <= 1
    assert texts["saved.png"] == texts["again.png"]


def test_dropped_picture_has_pythons_bits(own_page: Any, tmp_path: Path) -> None:
    pixels = pythons_picture(2, "coat").reshape(28, 28)
    Image.fromarray(pixels).save(tmp_path / "coat.png")
    drop(own_page, tmp_path / "coat.png", "image/png")
    own_page.get_by_role("button", name="Look inside").click()
    own_page.locator(".trio").wait_for()
    check_bits(own_page, pixels)


def test_picture_has_bits_and_comes_back_from_its_latent(page: Any) -> None:
    make(page)
    show(page, "gallery")
    page.locator(".thumb").first.click()
    page.get_by_role("button", name="Look inside").click()
    page.locator(".trio").wait_for()
    ((_, pixels),) = gallery(page)
    check_bits(page, pixels)


def check_bits(page: Any, pixels: Any) -> None:
    shown = float(page.locator(".number strong").inner_text())
    image = (pixels.astype(np.float32) / 127.5 - 1).reshape(1, 1, 28, 28)
    with Flow.open(threads=1) as flow:
        expected = float(flow.log_likelihood(image).bits_per_dim[0])
    assert shown == pytest.approx(expected, abs=2e-3)
    assert page.locator(".trio canvas").count() == 3
    same = page.locator(".verdict").inner_text()
    assert same.startswith(("Bit for bit the same", "The same to the eye"))


def test_morph(own_page: Any) -> None:
    page = own_page
    page.get_by_label("Guidance").fill("0")  # the graphs that a morph needs anyway
    make(page, 1)
    make(page, 2)
    show(page, "morph")
    for i in (0, 1):
        picker = page.locator(".picker").nth(i)
        picker.get_by_role("button", name="Gallery").click()
        picker.locator(".thumb").nth(i).click()
    page.locator(".card button.primary").click()
    slider = page.locator("input[type=range][aria-label]:enabled")
    slider.wait_for()
    slider.focus()
    page.keyboard.press("End")
    assert slider.input_value() == "12"


# ---- bundles of one's own -----------------------------------------------------------------------


def zipped(folder: Path, change: Callable[[str, bytes], bytes] = lambda _, data: data) -> Path:
    """The embedded bundle under another name, zipped."""
    path = folder / "mine.flowship.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(EMBEDDED.rglob("*")):
            if file.is_file():
                name, data = file.relative_to(EMBEDDED).as_posix(), file.read_bytes()
                if name == "manifest.json":
                    data = data.replace(b'"fashion-mnist"', b'"mine"', 1)
                archive.writestr(f"mine.flowship/{name}", change(name, data))
    return path


def without_denoising(name: str, data: bytes) -> bytes:
    """The manifest without the vector-Jacobian graphs."""
    if name != "manifest.json":
        return data
    manifest = json.loads(data)
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["role"] != "vjp"]
    return json.dumps(manifest).encode()


def test_own_bundle_is_kept_used_and_removed(own_page: Any, tmp_path: Path) -> None:
    """One without denoising graphs: the switch is not offered, with the reason."""
    denoise(own_page).check()
    show(own_page, "device")
    assert own_page.get_by_role("group", name="Threads").count() == 0, "the page is not isolated"
    open_bundle(own_page, zipped(tmp_path, without_denoising))
    row = own_page.locator(".models li", has_text="mine")
    row.locator(".badge", has_text="open").wait_for()
    assert "13 MB" in row.inner_text()
    show(own_page, "create")
    assert denoise(own_page).is_disabled() and not denoise(own_page).is_checked()
    own_page.get_by_text("Not with this bundle: no denoising graphs for onnx fp32.").wait_for()
    make(own_page, 9)
    ((recipe, pixels),) = gallery(own_page)
    assert (recipe["bundle"], recipe["denoise"]) == ("mine", False)
    assert largest_difference(pixels, pythons_picture(9, "t-shirt", 1.5)) <= 1
    own_page.reload()
    ready(own_page)
    assert denoise(own_page).is_enabled()
    show(own_page, "device")
    row.get_by_role("button", name="Remove").click()
    row.wait_for(state="detached")


def test_bad_bundles_say_what_is_wrong(own_page: Any, tmp_path: Path) -> None:
    def flip(name: str, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if name.endswith("block2.weights.bin") else data

    show(own_page, "device")
    alert = own_page.locator(".message.error span")
    bad = zipped(tmp_path, flip)
    open_bundle(own_page, bad)
    wrong = own_page.get_by_text("block2.weights.bin is damaged or was changed")
    wrong.wait_for()
    own_page.get_by_role("button", name="Close").click()
    bad.write_bytes(bad.read_bytes()[:1_000_000])
    open_bundle(own_page, bad)
    alert.wait_for()
    assert "not a zip" in alert.inner_text()
    assert own_page.locator(".models li").count() == 1


def test_without_https_nothing_is_kept_and_the_page_says_so(
    chromium: Any, static: str, tmp_path: Path
) -> None:
    with opened(chromium, static.replace("127.0.0.1", LAPTOP)) as page:
        assert not page.evaluate("isSecureContext")
        show(page, "device")
        open_bundle(page, zipped(tmp_path))
        page.get_by_text("this browser keeps no files for this page").wait_for()


# ---- pages --------------------------------------------------------------------------------------


def test_threads_are_chosen_and_remembered(chromium: Any, laptop: str) -> None:
    with opened(chromium, laptop.partition("#")[0], FOUR_CORES) as page:
        show(page, "device")
        choice = page.get_by_role("group", name="Threads")
        assert choice.locator("label").all_inner_texts() == ["auto", "1", "2", "4"]
        assert choice.get_by_label("auto").is_checked()
        engine = page.locator("p[role=status]", has_text="onnxruntime-web")
        assert engine.inner_text().endswith("fp32, 1 thread")
        choice.get_by_label("auto").focus()
        page.keyboard.press("ArrowRight")  # to 1: while that is being opened, on to 2
        page.keyboard.press("ArrowRight")
        page.get_by_text("fp32, 2 threads").wait_for()
        show(page, "create")
        make(page, 5)
        ((_, pixels),) = gallery(page)
        assert largest_difference(pixels, pythons_picture(5, "t-shirt", 1.5)) <= 1
        page.reload()
        ready(page)
        show(page, "device")
        assert engine.inner_text().endswith("fp32, 2 threads")
        choice.get_by_label("auto").check()
        page.get_by_text("fp32, 1 thread", exact=False).wait_for()
        assert page.evaluate("localStorage.length") == 0


def test_speed_is_a_row_of_flowship_bench(own_page: Any, tmp_path: Path) -> None:
    show(own_page, "device")
    own_page.get_by_role("button", name="Measure").click()
    path = tmp_path / "row.json"
    path.write_text(own_page.locator("pre").inner_text(), encoding="utf-8")
    (row,) = read_rows(path)
    assert (row.model, row.engine, row.device, row.status) == (
        "fashion-mnist",
        "onnx",
        "wasm",
        "ok",
    )
    assert len(row.samples_ms) == 5
    assert row.median_ms and row.images_per_min == pytest.approx(60_000 / row.median_ms)


@pytest.mark.slow  # a timing, for machines that do nothing else
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_wasm_takes_at_most_three_times_as_long(own_page: Any, guidance: float) -> None:
    """One thread each, each with its own plan; they take turns, the median of the ratios counts."""
    request = {**SNEAKER, "guidance": guidance}
    own_page.evaluate(START_WORKER)
    assert own_page.evaluate(OPEN, 1) == 1
    native, wasm = list[float](), list[float]()
    with Flow.open(threads=1) as flow:
        for _ in range(30):
            start = time.perf_counter()
            flow.generate(seed=7, label="sneaker", guidance=guidance)
            native.append(1000 * (time.perf_counter() - start))
            wasm.append(own_page.evaluate(GENERATE, request)[0])
    # The first ones are slow, until the browser has optimized the code.
    ratio = float(np.median(np.divide(wasm, native)[10:]))
    medians = [float(np.median(times[10:])) for times in (wasm, native)]
    print(
        f"guidance {guidance}: {medians[0]:.0f} ms against {medians[1]:.0f} ms, {ratio:.2f} times"
    )
    assert ratio <= 3


def test_pages_fit_a_phone_and_say_that_nothing_left(chromium: Any, laptop: str) -> None:
    with opened(chromium, laptop, WATCH_SHIFTS) as page:
        make(page)
        assert page.evaluate("window.shifts") < 0.01
        for name in PAGES:
            show(page, name)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        page.locator(".number", has_text="None").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(chromium: Any, laptop: str, scheme: str) -> None:
    """With the browser's engine on an isolated page, which has all controls."""
    need(AXE.is_file(), f"{AXE} is missing: run npm ci --ignore-scripts in apps/web")
    address, options = laptop.partition("#")[0], {"reduced_motion": "reduce"}
    with opened(chromium, address, color_scheme=scheme, **options) as page:
        make(page, 1)
        page.evaluate(AXE.read_text("utf-8"))
        found = {}
        for name in PAGES:
            show(page, name)
            if name == "gallery":
                page.locator(".thumb").first.click()
            violations = page.evaluate(
                "axe.run({ resultTypes: ['violations'] }).then(f => f.violations)"
            )
            bad = [v for v in violations if v["impact"] in ("serious", "critical")]
            if bad:
                found[name] = [(v["id"], [node["html"] for node in v["nodes"]]) for v in bad]
        assert found == {}
