"""The web app with the laptop's engine: what goes there, tokens, queues, and a server that ends."""

from __future__ import annotations

import io
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from web_bundles import OwnBundle
from web_pages import (
    LAPTOP,
    WEB_APP,
    drop,
    gallery,
    made_here,
    make,
    measure,
    open_bundle,
    opened,
    ready,
    show,
)

from flowship.runtime import Flow
from flowship.runtime.pictures import read_picture

pytest.importorskip("uvicorn")
from laptop_server import TOKEN, Running, running_server

NEW_TOKEN = "another-token"


def address(server: Running, token: str = TOKEN) -> str:
    return f"{server.origin}/#token={token}"


def photo(path: Path, width: int, height: int) -> Path:
    """A picture of soft shapes and some noise, as photos are."""
    y, x = np.mgrid[:height, :width] / 200
    waves = np.stack([np.sin(x + y), np.cos(x - y), np.sin(x * y / 9)], -1)
    grain = np.random.default_rng(1).integers(-9, 9, (height, width, 1))
    Image.fromarray((waves * 110 + 127 + grain).astype(np.uint8)).save(path)
    return path


def look_inside(page: Any, path: Path, kind: str) -> float:
    """Bits/dim of a dropped picture."""
    drop(page, path, kind)
    page.locator(".trio").wait_for()
    return float(page.locator(".number strong").inner_text())


# ---- what goes there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "height"), [("square.png", 1300, 1300), ("camera.jpg", 4000, 3000)]
)
def test_ordinary_photos(page: Any, tmp_path: Path, name: str, width: int, height: int) -> None:
    """They are larger than what the server reads, and have the bits that Python finds."""
    path = photo(tmp_path / name, width, height)
    kind = "image/png" if name.endswith("png") else "image/jpeg"
    found = look_inside(page, path, kind)
    with Flow.open(threads=1) as flow:
        image = read_picture(path, flow.spec.image)[None]
        expected = float(flow.log_likelihood(image).bits_per_dim[0])
    # The browser's JPEG decoder and pillow's round differently.
    assert found == pytest.approx(expected, abs=1e-3 if kind == "image/png" else 0.1)


def test_what_is_sent_is_said(chromium: Any, laptop: str, tmp_path: Path) -> None:
    """Over a network, to this computer, and nothing at all: three texts, and marks in the list."""
    path = photo(tmp_path / "small.png", 60, 50)
    stays = "Pictures, drawings, models and settings stay in this browser."
    with running_server(None, web_app=WEB_APP, names=(LAPTOP,)) as server:
        far = address(server).replace("127.0.0.1", LAPTOP)
        with opened(chromium, far) as page:
            look_inside(page, path, "image/png")
            show(page, "device")
            page.get_by_text(f"are sent over the network to {LAPTOP}, unencrypted.").wait_for()
            show(page, "privacy")
            page.get_by_text(f"are sent over the network to {LAPTOP}, unencrypted;").wait_for()
            assert page.get_by_text(stays).count() == 0
            for route in ("score", "encode", "decode"):
                row = page.locator("tr", has_text=f"/api/{route}").inner_text()
                assert re.search(rf"page; \d.* sent over the network to {LAPTOP}", row)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
    with opened(chromium, laptop) as page:
        make(page)
        show(page, "privacy")
        page.get_by_text("are sent to flowship serve on this computer;").wait_for()
        row = page.locator("tr", has_text="/api/generate").inner_text()
        assert re.search(r"page; \d+ bytes sent to flowship serve on this computer", row)
    with opened(chromium, laptop.partition("#")[0]) as page:
        show(page, "privacy")
        page.get_by_text(stays).wait_for()


# ---- tokens -------------------------------------------------------------------------------------


def test_a_token_is_taken_in_a_tab_that_is_open(chromium: Any, laptop: str) -> None:
    page_address = laptop.partition("#")[0]
    with opened(chromium, page_address) as page:
        show(page, "device")
        page.get_by_text("open the address that flowship serve printed, with its token").wait_for()
        page.goto(laptop)  # the same page: nothing is loaded again
        page.get_by_label("this laptop's engine").wait_for(state="attached")
        page.locator("p[role=status]", has_text="cpu, fp32").wait_for()
        assert page.get_by_label("this laptop's engine").is_checked()
        assert page.evaluate("location.href") == f"{page_address}#device"
        show(page, "create")
        make(page, 4)
        ((recipe, _),) = gallery(page)
        assert not made_here(recipe)


def test_a_server_that_was_started_again(chromium: Any) -> None:
    """Its old token opens nothing: the browser goes on, until the new one is opened in the tab."""
    with ExitStack() as stack:
        with running_server(None, web_app=WEB_APP) as server:
            page = stack.enter_context(opened(chromium, address(server)))
            make(page, 1)
        again = running_server(None, web_app=WEB_APP, port=server.port, token=NEW_TOKEN)
        with again as server:
            page.reload()
            page.get_by_text("flowship serve was started again and has a new token").wait_for()
            page.get_by_role("button", name="Close").click()
            make(page, 2)
            assert page.evaluate("sessionStorage.length") == 0
            page.goto(address(server, NEW_TOKEN))
            page.locator(".message", has_text="The laptop's engine is connected.").wait_for()
            ready(page)
            make(page, 3)
            made = [made_here(recipe) for recipe, _ in gallery(page)]
            assert made == [False, True, False]


# ---- engines and models -------------------------------------------------------------------------


def test_the_chips_say_which_engine_computes(page: Any, tmp_path: Path) -> None:
    """A bundle that is opened runs in the browser; it can be removed with either engine."""
    show(page, "device")
    laptops, browsers = page.get_by_label("this laptop's engine"), page.get_by_label("this browser")
    assert laptops.is_checked()
    open_bundle(page, OwnBundle().zip(tmp_path / "mine.zip"))
    page.locator(".models li.open", has_text="mine").wait_for()
    assert browsers.is_checked() and not laptops.is_checked()
    page.locator("p[role=status]", has_text="wasm").wait_for()
    laptops.check()
    page.locator("p[role=status]", has_text="cpu").wait_for()
    mine = page.locator(".models li", has_text="in this browser")
    mine.wait_for()
    assert page.locator(".models li.open", has_text="served by the laptop").count() == 1
    mine.get_by_role("button", name="Use").click()
    page.locator("p[role=status]", has_text="wasm").wait_for()
    assert browsers.is_checked()
    laptops.check()
    page.locator("p[role=status]", has_text="cpu").wait_for()
    mine.get_by_role("button", name="Remove").click()
    mine.wait_for(state="detached")
    assert laptops.is_checked()


def test_speed_of_the_laptops_engine(page: Any, tmp_path: Path) -> None:
    """Measured by its own clock, with a verdict; plans are for the command line."""
    show(page, "device")
    page.get_by_text("found by flowship plan --save, on its command line").wait_for()
    plan = page.get_by_role("button", name="Find the fastest plan")
    assert plan.get_attribute("aria-disabled") == "true"
    plan.click(force=True)
    assert page.locator(".message.error").inner_text() == ""
    row = measure(page, tmp_path)
    assert (row.model, row.engine, row.device) == ("fashion-mnist", "onnx", "cpu")
    assert len(row.samples_ms) >= 10
    assert page.locator(".verdict").inner_text().lower().startswith(str(row.trust))
    page.get_by_label("this browser").check()
    page.locator("p[role=status]", has_text="wasm").wait_for()
    assert plan.get_attribute("aria-disabled") is None


def test_a_page_of_a_server_says_so(chromium: Any, laptop: str, static: str) -> None:
    for host, words in (
        (laptop.partition("#")[0], "open the address that flowship serve printed"),
        (static, "Start flowship serve on a laptop"),
    ):
        with opened(chromium, host) as page:
            show(page, "device")
            page.locator(".travel", has_text=words).wait_for()


# ---- queues, and the end ------------------------------------------------------------------------


def test_batches_of_two_pages_share_a_short_queue(chromium: Any) -> None:
    with (
        running_server(None, web_app=WEB_APP, max_jobs=1) as server,
        opened(chromium, address(server)) as first,
        opened(chromium, address(server)) as second,
    ):
        for page in (first, second):
            page.get_by_label("How many").fill("4")
        for page in (first, second):
            page.get_by_role("button", name="Make a picture").click()
        for page in (first, second):
            page.locator(".caption", has_text="seed 10, made in").wait_for()
            assert len(gallery(page)) == 4


def test_a_server_that_has_ended(chromium: Any, flowship: Terminal, tmp_path: Path) -> None:
    """Every button says so, also one that would open another bundle first."""
    flowship.ok("generate", "--seed", 1, "--threads", 1, "-o", "x.png")
    with Image.open("x.png") as image:
        text, file = PngInfo(), io.BytesIO()
        recipe = re.sub(r'"bundle_sha256":"..', '"bundle_sha256":"00', image.text["flowship"])
        text.add_text("flowship", recipe)
        image.save(file, "PNG", pnginfo=text)
    (tmp_path / "other.png").write_bytes(file.getvalue())
    with ExitStack() as stack:
        with running_server(None, web_app=WEB_APP) as server:
            page = stack.enter_context(opened(chromium, address(server)))
            make(page, 1)
        alert = page.locator(".message.error", has_text="the laptop's engine does not answer")
        page.get_by_role("button", name="Make a picture").click()
        alert.wait_for()
        page.get_by_role("button", name="Close").click()
        drop(page, tmp_path / "other.png", "image/png")
        page.get_by_role("button", name="Make it again").click()
        alert.wait_for()
        page.get_by_text("It was not made again.").wait_for()
