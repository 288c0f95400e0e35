"""The web app as people use it: the built files in Chromium, from a static host and a laptop."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal
from PIL import Image
from web_bundles import OwnBundle
from web_pages import (
    AXE,
    FOUR_CORES,
    GENERATE,
    OPEN,
    PAGES,
    SNEAKER,
    START_WORKER,
    WATCH_PROGRESS,
    WATCH_SHIFTS,
    denoise,
    drop,
    gallery,
    largest_difference,
    made_here,
    make,
    measure,
    need,
    open_bundle,
    opened,
    pythons_picture,
    ready,
    show,
    static_host,
)

from flowship.runtime import Flow

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
    own_page.locator(
        ".verdict", has_text="Bit for bit the same: all 784 values are equal"
    ).wait_for()
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
    row = measure(own_page, tmp_path)
    assert (row.model, row.engine, row.device, row.status) == (
        "fashion-mnist",
        "onnx",
        "wasm",
        "ok",
    )
    assert len(row.samples_ms) >= 10  # enough for a verdict, which is shown
    assert row.trust in ("trusted", "noisy", "not trustworthy")
    shown = own_page.locator(".verdict").inner_text().lower()
    assert shown.startswith(row.trust)
    assert all(reason in shown for reason in row.trust_reasons)
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
def test_pages_are_accessible(
    chromium: Any, laptop: str, scheme: str, flowship: Terminal, tmp_path: Path
) -> None:
    """With the browser's engine on an isolated page, which has all controls, and results in all."""
    need(AXE.is_file(), f"{AXE} is missing: run npm ci --ignore-scripts in apps/web")
    address, options = laptop.partition("#")[0], {"reduced_motion": "reduce"}
    flowship.ok("generate", "--seed", 1, "--threads", 1, "-o", "one.png")
    with opened(chromium, address, color_scheme=scheme, **options) as page:
        page.evaluate(AXE.read_text("utf-8"))
        found = dict[str, Any]()

        def check(name: str) -> None:
            violations = page.evaluate(
                "axe.run({ resultTypes: ['violations'] }).then(f => f.violations)"
            )
            if violations:
                found[name] = [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations]

        drop(page, Path("one.png"), "image/png")
        page.get_by_role("button", name="Make it again").wait_for()
        check("recipe")
        page.get_by_role("button", name="Make it again").click()
        page.locator(".verdict", has_text="values are equal").wait_for()
        show(page, "device")
        open_bundle(page, OwnBundle().renamed("int8").zip(tmp_path / "mine.zip"))
        page.locator(".models li.open", has_text="int8").wait_for()
        show(page, "gallery")
        page.locator(".thumb").first.click()
        page.get_by_role("button", name="Look inside").click()
        page.locator(".trio").wait_for()
        for name in PAGES:
            show(page, name)
            check(name)
        page.locator('a[href="#create"]').last.click()
        page.get_by_label("anything").check()
        page.get_by_label("How many").fill("65")
        page.get_by_role("button", name="Make a picture").click()
        page.get_by_role("button", name="Close").wait_for()
        check("an error")
        assert found == {}
