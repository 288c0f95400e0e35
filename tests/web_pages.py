"""The built web app in Chromium, and what people do in it; the fixtures are in conftest.py."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowship.benchmarks.formats import read_rows
from flowship.benchmarks.row import Row
from flowship.runtime import Flow

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
    page.set_default_timeout(180_000)  # other programs may keep all cores
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


# ---- what people do -----------------------------------------------------------------------------


def ready(page: Any) -> None:
    page.get_by_role("button", name="Make a picture", disabled=False).wait_for()


def make(page: Any, seed: int = 7) -> None:
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Make a picture").click()
    page.locator(".caption", has_text=re.compile(f"seed {seed}, made in")).wait_for()
    ready(page)


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


def measure(page: Any, folder: Path) -> Row:
    """Press the button; the row that is shown then."""
    page.get_by_role("button", name="Measure").click()
    path = folder / "row.json"
    path.write_text(page.locator("pre").inner_text(timeout=120_000), encoding="utf-8")
    (row,) = read_rows(path)
    return row


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
