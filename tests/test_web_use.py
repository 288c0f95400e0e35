"""The web app in use: on a phone, by keyboard, with odd input, in browsers that refuse things."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from web_pages import (
    WATCH_SHIFTS,
    WEB_APP,
    drop,
    gallery,
    make,
    opened,
    ready,
    show,
    static_host,
)

from flowship.runtime.bundle import EMBEDDED

FOCUSED = "document.activeElement.textContent.trim() || document.activeElement.tagName"
# What has the focus whenever a computation begins to show its progress.
WATCH_FOCUS = f"""() => {{
  window.focused = [];
  new MutationObserver(() => {{
    if (document.querySelector(".progress:not(.idle)")) window.focused.push({FOCUSED});
  }}).observe(document, {{ subtree: true, attributes: true, attributeFilter: ["class"] }});
}}"""
REFUSE_DATABASES = """
  indexedDB.open = () => { throw new DOMException("The operation is insecure.", "SecurityError"); };
"""
# Until the service worker answers this page's requests.
AWAIT_CONTROL = """() => new Promise(done => {
  if (navigator.serviceWorker.controller) done();
  navigator.serviceWorker.addEventListener("controllerchange", () => done());
})"""
COUNT_BITMAPS = """
  window.bitmaps = 0;
  const original = createImageBitmap;
  window.createImageBitmap = (...args) => (window.bitmaps++, original(...args));
"""


def go(page: Any) -> Any:
    return page.get_by_role("button", name="Make a picture")


def in_view(page: Any, selector: str) -> bool:
    """Whether the middle of an element is on the screen, above the bar of a phone."""
    box = page.locator(selector).first.bounding_box()
    middle = box["y"] + box["height"] / 2
    return bool(0 < middle < page.viewport_size["height"] - 60)


# ---- on a phone ---------------------------------------------------------------------------------


def test_what_is_found_inside_comes_into_view(own_page: Any, tmp_path: Path) -> None:
    """And goes away where the next picture fails: it would stand beside the wrong one."""
    make(own_page, 1)
    show(own_page, "gallery")
    own_page.locator(".thumb").click()
    own_page.get_by_role("button", name="Look inside").click()
    own_page.locator(".trio").wait_for()
    assert in_view(own_page, ".number")
    Image.new("L", (8192, 1)).save(tmp_path / "narrow.png")
    drop(own_page, tmp_path / "narrow.png", "image/png")
    own_page.locator(".message.error", has_text="8192 x 1 pixels is too narrow").wait_for()
    assert own_page.locator(".number").count() == 0


@pytest.mark.parametrize("count", [6, 64])
def test_pictures_of_a_batch_move_nothing(chromium: Any, static: str, count: int) -> None:
    with opened(chromium, static, WATCH_SHIFTS) as page:
        page.get_by_label("Guidance").fill("0")
        page.get_by_label("How many").fill(str(count))
        go(page).click()
        if count == 6:
            page.locator(".caption", has_text="seed 12, made in").wait_for()
        else:
            page.locator(".strip [role=img]").nth(3).wait_for()
            page.get_by_role("button", name="Cancel").click()
            page.locator(".message", has_text="Cancelled").wait_for()
        assert page.locator(".strip canvas").count() == count
        assert page.evaluate("window.shifts") < 0.01


# ---- by keyboard --------------------------------------------------------------------------------


def test_the_focus_stays_where_people_are(own_page: Any) -> None:
    seed = own_page.get_by_label("Seed", exact=True)
    seed.fill("21")
    seed.press("Enter")
    own_page.locator(".caption", has_text="seed 21, made in").wait_for()
    ready(own_page)
    assert own_page.evaluate("document.activeElement.value") == "21"
    go(own_page).focus()
    own_page.evaluate(WATCH_FOCUS)  # in the page: a picture may be there before we look
    own_page.keyboard.press("Enter")
    own_page.wait_for_function("window.focused.length > 0")
    ready(own_page)
    assert set(own_page.evaluate("window.focused")) == {"Make a picture"}
    assert own_page.evaluate(FOCUSED) == "Make a picture"

    own_page.get_by_label("How many").fill("64")
    go(own_page).focus()
    own_page.keyboard.press("Enter")
    cancel = own_page.get_by_role("button", name="Cancel")
    cancel.focus()
    own_page.keyboard.press("Enter")
    own_page.locator(".message", has_text="Cancelled").wait_for()
    ready(own_page)
    assert own_page.evaluate(FOCUSED) == "Make a picture"

    seed.fill("x")
    seed.press("Enter")
    own_page.get_by_role("button", name="Close").focus()
    own_page.keyboard.press("Enter")
    assert own_page.evaluate("document.activeElement.value") == "x"


def test_the_focus_goes_on_to_the_next_picture(own_page: Any) -> None:
    for number in (1, 2):
        make(own_page, number)
    show(own_page, "gallery")
    for expected in ("t-shirt, seed 1", None):
        own_page.locator(".thumb").first.press("Enter")
        own_page.get_by_role("button", name="Delete").press("Enter")
        own_page.locator(".message", has_text="Deleted").wait_for()
        own_page.locator(".recipe").wait_for(state="detached")
        assert own_page.evaluate("document.activeElement.ariaLabel") == expected
    assert own_page.evaluate("document.activeElement.tagName") == "MAIN"
    assert gallery(own_page) == []


# ---- odd input ----------------------------------------------------------------------------------


def test_guidance_needs_a_class_and_counts_have_bounds(own_page: Any) -> None:
    guidance, value = own_page.get_by_label("Guidance"), own_page.locator("output")
    assert guidance.is_enabled() and value.inner_text() == "1.5"
    own_page.get_by_label("anything").check()
    assert guidance.is_disabled() and value.inner_text() == "none without a class"
    make(own_page, 1)
    ((recipe, _),) = gallery(own_page)
    assert (recipe["labels"], recipe["guidance"]) == ([None], 0)
    own_page.get_by_label("coat", exact=True).check()
    assert guidance.is_enabled() and value.inner_text() == "1.5"
    count = own_page.get_by_label("How many")
    for wrong in ("65", "0", "", "1.5"):
        count.fill(wrong)
        go(own_page).click()
        own_page.get_by_text("How many is not a whole number from 1 to 64.").wait_for()
        assert own_page.evaluate("document.activeElement.type") == "number"
        own_page.get_by_role("button", name="Close").click()
    assert len(gallery(own_page)) == 1


def test_a_picture_that_is_too_large_is_not_unpacked(
    chromium: Any, static: str, tmp_path: Path
) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    Image.new("1", (30, 20)).save(tmp_path / "small.png")
    with opened(chromium, static, COUNT_BITMAPS) as page:
        drop(page, tmp_path / "huge.png", "image/png")
        page.get_by_text("huge.png has 20000 x 20000 pixels, at most 8192 a side").wait_for()
        assert page.evaluate("window.bitmaps") == 0
        drop(page, tmp_path / "small.png", "image/png")
        page.locator(".trio").wait_for()
        assert page.evaluate("window.bitmaps") == 1


# ---- browsers that refuse -----------------------------------------------------------------------


def test_without_a_database_pictures_are_held(chromium: Any, static: str) -> None:
    with opened(chromium, static, REFUSE_DATABASES) as page:
        page.get_by_label("How many").fill("3")
        go(page).click()
        page.locator(".caption", has_text="seed 9, made in").wait_for()
        show(page, "gallery")
        page.get_by_text("This browser keeps nothing for this page").wait_for()
        assert page.locator(".thumb").count() == 3
        page.locator(".thumb").first.click()
        with page.expect_download():
            page.get_by_role("button", name="Save PNG").click()
        page.get_by_role("button", name="Delete").click()
        page.locator(".thumb").nth(2).wait_for(state="detached")


def test_what_was_blocked_has_not_left(own_page: Any) -> None:
    refused = own_page.evaluate("fetch('https://example.org/x').then(() => false, () => true)")
    assert refused
    show(own_page, "privacy")
    own_page.locator(".number", has_text="1 were blocked").wait_for()
    assert own_page.locator(".number strong").inner_text() == "None"
    own_page.get_by_role("row", name="https://example.org/x").wait_for()
    assert (
        own_page.locator("tr", has_text="example.org")
        .inner_text()
        .endswith("page; blocked before it left")
    )


def test_a_new_version_is_offered_until_it_is_taken(chromium: Any, tmp_path: Path) -> None:
    """Other messages come and go; the worker's own script is in the list of requests."""
    shutil.copytree(WEB_APP, tmp_path / "app")
    shutil.copytree(EMBEDDED, tmp_path / "app" / "bundle")
    options = {"service_workers": "allow"}
    with (
        static_host(tmp_path) as (top, _),
        opened(chromium, f"{top}app/", **options) as page,
    ):
        page.evaluate(AWAIT_CONTROL)
        script = tmp_path / "app" / "sw.js"
        script.write_text(script.read_text("utf-8") + "\n// another version\n", "utf-8")
        page.reload()
        offer = page.locator(".message", has_text="A new version is ready.")
        offer.wait_for()
        ready(page)
        make(page, 1)
        page.locator(".message", has_text="seed 1 is ready").wait_for()
        assert offer.is_visible()
        show(page, "privacy")
        row = page.locator("tr", has_text="/app/sw.js")
        assert "browser, for the service worker" in row.inner_text()
        page.get_by_text("Switch the network off: it goes on working.").wait_for()
        with page.expect_navigation():
            offer.get_by_role("button", name="Reload").click()


def test_every_page_has_one_heading_of_the_first_level(own_page: Any) -> None:
    for name in ("create", "device"):
        show(own_page, name)
        assert own_page.get_by_role("heading", level=1).all_inner_texts() == ["flowship"]
