"""Recipes in the web app: what is made again, what is not, and whose classes they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from command_line import Terminal
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from web_bundles import OwnBundle
from web_pages import drop, gallery, make, open_bundle, show

from flowship.runtime import Flow

# What an earlier version kept of the pictures.
FORGET_NAMES = """() => new Promise(done => {
  indexedDB.open("flowship-gallery").onsuccess = ({ target: { result: database } }) => {
    const table = database.transaction("pictures", "readwrite").objectStore("pictures");
    table.transaction.oncomplete = done;
    table.getAll().onsuccess = ({ target: { result: rows } }) => {
      for (const { className, ...row } of rows) table.put(row);
    };
  };
})"""


def with_recipe(source: Path, path: Path, **changes: Any) -> Path:
    """A PNG with the recipe of another one, changed."""
    with Image.open(source) as image:
        text = PngInfo()
        recipe = {**json.loads(image.text["flowship"]), **changes}
        text.add_text("flowship", json.dumps(recipe))
        image.save(path, pnginfo=text)
    return path


def again(page: Any) -> Any:
    """The button of a dropped picture's card."""
    return page.get_by_role("button", name="again")


def test_an_interpolation_is_not_taken_for_seeds(own_page: Any, flowship: Terminal) -> None:
    flowship.ok("interpolate", "--seeds", "3,9", "--steps", 8, "--threads", 1, "-o", "way.png")
    drop(own_page, Path("way.png"), "image/png")
    own_page.get_by_text("given noise 0-7").wait_for()
    own_page.get_by_text("these pictures lie between two others").wait_for()
    assert again(own_page).count() == 0
    assert gallery(own_page) == []


def test_all_pictures_of_a_sheet_are_compared(own_page: Any, flowship: Terminal) -> None:
    arguments = ("-n", 6, "--seed", 40, "--label", "bag", "--columns", 4, "--threads", 1)
    flowship.ok("generate", *arguments, "-o", "six.png")
    drop(own_page, Path("six.png"), "image/png")
    again(own_page).click()
    verdict = own_page.locator(".verdict", has_text="values of 6 pictures")
    verdict.wait_for()
    assert verdict.inner_text().startswith(("Bit for bit the same", "The same to the eye"))
    assert [recipe["seeds"] for recipe, _ in gallery(own_page)] == [
        [seed] for seed in range(40, 46)
    ]
    # One of them is another picture.
    with Image.open("six.png") as image:
        text = PngInfo()
        text.add_text("flowship", image.text["flowship"])
        levels = np.array(image)
        levels[35, 35] ^= 255
        Image.fromarray(levels).save("changed.png", pnginfo=text)
    drop(own_page, Path("changed.png"), "image/png")
    again(own_page).click()
    own_page.locator(".verdict", has_text="Not the same: ").wait_for()


def test_a_recipe_of_very_many_pictures_asks_for_a_few(own_page: Any, flowship: Terminal) -> None:
    flowship.ok("generate", "--seed", 1, "--threads", 1, "-o", "one.png")
    seeds = list(range(65_536))
    many = with_recipe(Path("one.png"), Path("many.png"), seeds=seeds, labels=[None] * len(seeds))
    drop(own_page, many, "image/png")
    own_page.get_by_role("button", name="Make the first 64 of 65,536 again").wait_for()
    own_page.get_by_text("flowship generate --like makes all of them.").wait_for()


def test_pictures_keep_the_names_of_their_own_classes(own_page: Any, tmp_path: Path) -> None:
    """Also those of an earlier version, which kept none."""
    bundle = OwnBundle()
    bundle.manifest["spec"]["conditioning"]["class_names"] = [f"thing {i}" for i in range(10)]
    show(own_page, "device")
    open_bundle(own_page, bundle.zip(tmp_path / "mine.zip"))
    own_page.locator(".models li.open", has_text="mine").wait_for()
    show(own_page, "create")
    own_page.get_by_label("thing 3").check()
    make(own_page, 8)
    show(own_page, "device")
    own_page.locator(".models li", has_text="fashion-mnist").get_by_role("button").click()
    own_page.locator(".models li.open", has_text="fashion-mnist").wait_for()
    show(own_page, "create")
    own_page.get_by_label("dress", exact=True).check()
    make(own_page, 9)
    expected = ["dress, seed 9", "thing 3, seed 8"]
    for _ in range(2):
        show(own_page, "gallery")
        thumbs = own_page.locator(".thumb")
        own_page.get_by_role("button", name="thing 3, seed 8").wait_for()
        assert [thumb.get_attribute("aria-label") for thumb in thumbs.all()] == expected
        own_page.reload()
    own_page.get_by_role("button", name="thing 3, seed 8").click()
    rows = own_page.locator(".recipe dd")
    assert [rows.nth(i).inner_text() for i in range(2)] == ["mine", "thing 3"]
    own_page.evaluate(FORGET_NAMES)
    own_page.reload()
    for name in ("dress, seed 9", "class 3, seed 8"):
        own_page.get_by_role("button", name=name).wait_for()


def test_a_picture_in_the_gallery_is_made_again(own_page: Any) -> None:
    make(own_page, 3)
    show(own_page, "gallery")
    own_page.locator(".thumb").click()
    own_page.get_by_role("button", name="Make again").click()
    own_page.locator(".verdict", has_text="Bit for bit the same: all 784 values").wait_for()
    (first, second) = gallery(own_page)
    assert first[0] == second[0]
    with Flow.open(threads=1) as flow:
        assert first[0]["bundle_sha256"] == flow.bundle.sha256
