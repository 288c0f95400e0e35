"""Bundles of one's own in the web app: kept, compared, refused, chosen by precision, and left."""

from __future__ import annotations

import json
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
    START_WORKER,
    denoise,
    drop,
    gallery,
    largest_difference,
    make,
    open_bundle,
    opened,
    pythons_picture,
    ready,
    show,
)

from flowship.runtime import Flow

# Folders of bundles in the browser's storage.
READ_STORE = """async () => {
  const root = await navigator.storage.getDirectory();
  const bundles = await root.getDirectoryHandle("bundles", { create: true });
  return Array.fromAsync(bundles.keys());
}"""
# Another byte at the end of a stored file.
DAMAGE = """async ([id, ...path]) => {
  let folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("bundles");
  for (const name of [id, ...path.slice(0, -1)]) folder = await folder.getDirectoryHandle(name);
  const file = await folder.getFileHandle(path.at(-1));
  const writer = await file.createWritable({ keepExistingData: true });
  await writer.write({ type: "write", position: (await file.getFile()).size - 1, data: "x" });
  await writer.close();
}"""
# An import in another tab: its folder, and until window.end() the lock.
BEGIN_IMPORT = """async id => {
  const root = await navigator.storage.getDirectory();
  const bundles = await root.getDirectoryHandle("bundles", { create: true });
  await bundles.getDirectoryHandle(id, { create: true });
  await new Promise(locked => navigator.locks.request(`flowship-bundle-${id}`, () => {
    locked();
    return new Promise(end => (window.end = end));
  }));
}"""
ASK_TO_PERSIST = """
  window.asked = 0;
  StorageManager.prototype.persisted = async () => false;
  StorageManager.prototype.persist = async () => (window.asked++, true);
"""


def mine(page: Any) -> Any:
    """Its row in the list of models."""
    return page.locator(".models li", has_text="mine")


def keep(page: Any, bundle: OwnBundle, path: Path) -> None:
    """Import it, and wait until it is open."""
    show(page, "device")
    open_bundle(page, bundle.zip(path))
    page.locator(".models li.open", has_text="mine").wait_for()


def is_whole(page: Any, bundle: OwnBundle) -> bool:
    """Whether every stored file has the hash that its manifest says, asked of a worker."""
    page.evaluate(START_WORKER)
    info = page.evaluate("id => call('open', id, {})", bundle.sha256)
    made = page.evaluate("call('generate', { seed: '1', guidance: 1, label: 0, denoise: true })")
    return info["name"] == "mine" and bool(made["pixels"])


# ---- kept ---------------------------------------------------------------------------------------


def test_own_bundle_is_kept_used_and_removed(own_page: Any, tmp_path: Path) -> None:
    """One without denoising graphs: the switch is not offered, with the reason."""
    denoise(own_page).check()
    show(own_page, "device")
    assert own_page.get_by_role("group", name="Threads").count() == 0, "the page is not isolated"
    keep(own_page, OwnBundle().without_denoising(), tmp_path / "mine.zip")
    assert "13 MB" in mine(own_page).inner_text()
    assert own_page.get_by_role("group", name="Precision").count() == 0
    show(own_page, "create")
    assert denoise(own_page).is_disabled() and not denoise(own_page).is_checked()
    own_page.get_by_text("Not with this bundle: no denoising graphs for onnx fp32.").wait_for()
    make(own_page, 9)
    ((recipe, pixels),) = gallery(own_page)
    assert (recipe["bundle"], recipe["denoise"]) == ("mine", False)
    assert largest_difference(pixels, pythons_picture(9, "t-shirt", 1.5)) <= 1
    own_page.reload()  # what was open is opened again
    ready(own_page)
    assert denoise(own_page).is_disabled()
    show(own_page, "device")
    mine(own_page).get_by_role("button", name="Remove").click()
    mine(own_page).wait_for(state="detached")
    show(own_page, "create")
    own_page.reload()
    ready(own_page)
    assert denoise(own_page).is_enabled()
    assert own_page.evaluate("localStorage.length") == 0


def test_a_stored_bundle_outlives_bad_copies_and_cancelled_imports(
    own_page: Any, tmp_path: Path
) -> None:
    good, bad = OwnBundle(), OwnBundle().flipped("onnx/fp32/block0.weights.bin")
    keep(own_page, good, tmp_path / "good.zip")
    open_bundle(own_page, bad.zip(tmp_path / "bad.zip"))
    own_page.get_by_text("block0.weights.bin is damaged or was changed").wait_for()
    own_page.get_by_role("button", name="Close").click()
    own_page.evaluate(
        """() => new MutationObserver((_, observer) => {
          const cancel = document.querySelector(".progress:not(.idle) .cancel");
          if (!cancel) return;
          observer.disconnect();
          cancel.click();
        }).observe(document, { subtree: true, attributes: true })"""
    )
    open_bundle(own_page, tmp_path / "good.zip")
    own_page.locator(".message", has_text="Cancelled").wait_for()
    own_page.reload()
    mine(own_page).locator(".badge", has_text="open").wait_for()
    assert own_page.evaluate(READ_STORE) == [good.sha256]
    assert is_whole(own_page, good)


def test_a_stored_bundle_that_is_damaged_is_mended_by_the_same_zip(
    own_page: Any, tmp_path: Path
) -> None:
    bundle = OwnBundle()
    keep(own_page, bundle, tmp_path / "mine.zip")
    own_page.evaluate(DAMAGE, [bundle.sha256, "onnx", "fp32", "block1.vjp.onnx"])
    with pytest.raises(Exception, match=r"block1\.vjp\.onnx has the sha256"):
        is_whole(own_page, bundle)
    own_page.reload()
    mine(own_page).locator(".badge", has_text="open").wait_for()
    open_bundle(own_page, tmp_path / "mine.zip")
    own_page.locator(".message", has_text="mine is kept").wait_for()
    assert is_whole(own_page, bundle)


def test_imports_of_other_tabs_are_left_alone(own_page: Any, static: str, tmp_path: Path) -> None:
    """One that runs, while another tab lists the bundles; an interrupted one is removed."""
    large = OwnBundle()
    large.put("quality/zeros.bin", bytes(120_000_000))
    other = own_page.context.new_page()
    other.goto(static)
    ready(other)
    other.evaluate(START_WORKER)
    show(own_page, "device")
    open_bundle(own_page, large.zip(tmp_path / "large.zip", packed=True))
    own_page.locator(".progress-text", has_text="left").first.wait_for()
    there = False
    while not there:  # asked first: however the two share the machine, it lists once at least
        there = bool(own_page.locator(".models li.open", has_text="mine").count())
        other.evaluate("call('listStored')")
        assert not own_page.locator(".message.error").inner_text()
    assert own_page.evaluate(READ_STORE) == [large.sha256]

    running = "1" * 64
    own_page.evaluate(BEGIN_IMPORT, running)
    for expected in ({large.sha256, running}, {large.sha256}):
        found = other.evaluate("call('listStored')")
        assert [model["name"] for model in found] == ["mine"]
        assert set(other.evaluate(READ_STORE)) == expected
        own_page.evaluate("window.end()")
    other.close()


def test_a_stored_bundle_that_cannot_be_opened_is_listed_and_stays(
    own_page: Any, tmp_path: Path
) -> None:
    bundle = OwnBundle()
    keep(own_page, bundle, tmp_path / "mine.zip")
    own_page.evaluate(DAMAGE, [bundle.sha256, "manifest.json"])
    own_page.reload()
    row = own_page.locator(".models li", has_text="Cannot be opened: manifest.json is not JSON")
    row.wait_for()
    own_page.locator(".models li.open", has_text="fashion-mnist").wait_for()
    assert row.get_by_role("button", name="Use").count() == 0
    assert own_page.evaluate(READ_STORE) == [bundle.sha256]
    row.get_by_role("button", name="Remove").click()
    row.wait_for(state="detached")
    assert own_page.evaluate(READ_STORE) == []


def test_the_browser_is_asked_to_keep_bundles(chromium: Any, static: str, tmp_path: Path) -> None:
    with opened(chromium, static, ASK_TO_PERSIST) as page:
        assert page.evaluate("window.asked") == 0
        keep(page, OwnBundle(), tmp_path / "mine.zip")
        assert page.evaluate("window.asked") == 1
        page.locator(".message", has_text="mine is kept in this browser.").wait_for()


# ---- refused ------------------------------------------------------------------------------------


def test_bad_bundles_say_what_is_wrong(own_page: Any, tmp_path: Path) -> None:
    """Nothing of them is kept, and the model that was open still is."""
    plan = OwnBundle()
    plan.put("plan.json", json.dumps({"plan": {"windows": {"block0": 10**18}}}).encode())
    refused = {
        "block2.weights.bin is damaged or was changed": OwnBundle().flipped(
            "onnx/fp32/block2.weights.bin"
        ),
        "pictures of 4 channels cannot be shown": OwnBundle().of_four_channels(),
        "the bundle mine has nothing for the engine onnx": OwnBundle().of_another_engine(),
        "windows.block0: expected an integer of at most 53 bits": plan,
    }
    paths = {
        words: bundle.zip(tmp_path / f"{number}.zip")
        for number, (words, bundle) in enumerate(refused.items())
    }
    whole = OwnBundle().zip(tmp_path / "mine.zip", packed=True).read_bytes()
    garbage = whole[:100] + bytes([whole[100] ^ 255]) * 60 + whole[160:]  # of its manifest
    for words, data in (("not a zip", whole[:1_000_000]), ("the zip is damaged: ", garbage)):
        paths[words] = tmp_path / f"{len(paths)}.zip"
        paths[words].write_bytes(data)
    show(own_page, "device")
    for words, path in paths.items():
        open_bundle(own_page, path)
        own_page.locator(".message.error span", has_text=words).wait_for()
        own_page.get_by_role("button", name="Close").click()
    assert own_page.locator(".models li").count() == 1
    assert own_page.evaluate(READ_STORE) == []
    show(own_page, "create")
    make(own_page, 1)


def test_without_https_nothing_is_kept_and_the_page_says_so(
    chromium: Any, static: str, tmp_path: Path
) -> None:
    with opened(chromium, static.replace("127.0.0.1", LAPTOP)) as page:
        assert not page.evaluate("isSecureContext")
        show(page, "device")
        open_bundle(page, OwnBundle().zip(tmp_path / "mine.zip"))
        page.get_by_text("this browser keeps no files for this page").wait_for()


# ---- used ---------------------------------------------------------------------------------------


def test_precisions_are_chosen_and_recipes_get_theirs(
    own_page: Any, flowship: Terminal, tmp_path: Path
) -> None:
    path = tmp_path / "mine.flowship.zip"
    pytest.importorskip("torch")
    keep(own_page, OwnBundle().with_precision("fp16").with_precision("int8"), path)
    chips = mine(own_page).get_by_role("group", name="Precision")
    assert chips.locator("label").all_inner_texts() == ["fp32", "fp16", "int8"]
    assert chips.get_by_label("fp32").is_checked()
    chips.get_by_label("fp32").focus()
    for precision, seed in (("fp16", 4), ("int8", 5)):
        show(own_page, "device")
        chips.get_by_role("radio", checked=True).focus()
        own_page.keyboard.press("ArrowRight")
        own_page.locator("p[role=status]", has_text=f"wasm, {precision}").wait_for()
        assert chips.get_by_label(precision).is_checked()
        assert own_page.evaluate("document.activeElement.type") == "radio", "the focus has gone"
        show(own_page, "create")
        make(own_page, seed)
    own_page.reload()
    ready(own_page)
    make(own_page, 6)
    made = zip(gallery(own_page), (4, 5, 6), ("fp16", "int8", "int8"), strict=True)
    for (recipe, pixels), seed, precision in made:
        with Flow.open(path, precision=precision, threads=1) as flow:
            expected = flow.generate(seed=seed, label="t-shirt", guidance=1.5).pictures().ravel()
        assert recipe["precision"] == precision
        # Other kernels: sums of float16 round elsewhere, activations to other codes.
        psnr = 10 * np.log10(255**2 / np.square(pixels.astype(float) - expected).mean())
        assert psnr > {"fp16": 40, "int8": 25}[precision], (precision, psnr)
        assert not np.array_equal(pixels, pythons_picture(seed, "t-shirt", 1.5))
    # A picture of float32 goes back to it, one of a precision that is not there is refused.
    flowship.ok("generate", path, "--seed", 3, "--threads", 1, "-o", "plain.png")
    drop(own_page, Path("plain.png"), "image/png")
    own_page.get_by_role("button", name="Make it again").click()
    own_page.locator(".verdict", has_text="values are equal").wait_for()
    (*_, (recipe, _)) = gallery(own_page)
    assert recipe["precision"] == "fp32"
    show(own_page, "device")
    own_page.locator("p[role=status]", has_text="wasm, fp32").wait_for()
    with Image.open("plain.png") as image:
        text = PngInfo()
        text.add_text("flowship", image.text["flowship"].replace('"fp32"', '"int4"'))
        image.save("int4.png", pnginfo=text)
    drop(own_page, Path("int4.png"), "image/png")
    own_page.get_by_role("button", name="Make it again").click()
    own_page.get_by_text(
        "made by onnx in int4, and here mine has fp32, fp16, int8 for onnx"
    ).wait_for()
    assert len(gallery(own_page)) == 4


def test_a_graph_that_never_ends_can_be_cancelled(own_page: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    keep(own_page, OwnBundle().that_never_ends(), tmp_path / "endless.zip")
    show(own_page, "create")
    own_page.get_by_role("button", name="Make a picture").click()
    own_page.locator(".progress-text", has_text="Picture").wait_for()
    own_page.wait_for_timeout(1500)  # the call has begun
    own_page.get_by_role("button", name="Cancel").click()
    own_page.locator(".message", has_text="Cancelled").wait_for()
    ready(own_page)
    show(own_page, "device")
    mine(own_page).get_by_role("button", name="Remove").click()
    mine(own_page).wait_for(state="detached")
    show(own_page, "create")
    make(own_page, 1)
    ((recipe, _),) = gallery(own_page)
    assert recipe["bundle"] == "fashion-mnist"
