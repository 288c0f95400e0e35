"""The web app's pages in every state, on a phone and on a desk: nothing is wider than the screen or
covered, and what is said goes away with its cause.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Terminal
from PIL import Image
from web_bundles import OwnBundle
from web_pages import PAGES, drop, make, measure, open_bundle, show

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 800}
# What is wrong with the page as it stands, in words.
FAULTS = """() => {
  const found = [];
  const main = document.querySelector("main");
  for (const box of [document.documentElement, main]) {
    if (box.scrollWidth > box.clientWidth) found.push(`${box.tagName} is ${box.scrollWidth} wide`);
  }
  const called = e => `${e.tagName} ${(e.ariaLabel || e.textContent).slice(0, 40)}`;
  for (const element of main.querySelectorAll("*")) {
    const { right } = element.getBoundingClientRect();
    const card = element.closest(".card, .stage, .table") ?? main;
    const scrolls = element.closest(".table, .progress.idle");
    if (right > card.getBoundingClientRect().right + 1 && !scrolls) {
      found.push(`${called(element)} ends at ${right}`);
    }
  }
  const top = element => {
    const { left, top, width, height } = element.getBoundingClientRect();
    const there = document.elementFromPoint(left + width / 2, top + height / 2);
    const label = element.labels?.[0];
    return element.contains(there) || Boolean(there && label?.contains(there));
  };
  for (const link of document.querySelectorAll("nav a")) {
    if (!top(link)) found.push(`${called(link)} is covered or gone`);
  }
  const before = main.scrollTop;
  for (const element of main.querySelectorAll("button, input, canvas.pad")) {
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    element.scrollIntoView({ block: "nearest" });
    if (!top(element)) found.push(`${called(element)} is covered`);
  }
  main.scrollTop = before;
  return found;
}"""


def check(page: Any, state: str) -> None:
    """On a phone and on a desk."""
    for size in (DESK, PHONE):
        page.set_viewport_size(size)
        assert page.evaluate(FAULTS) == [], f"{state} at {size['width']}"


def long_bundle() -> OwnBundle:
    """Names as long as they may be, without a place to break them."""
    bundle = OwnBundle("m" * 100).renamed("int8")
    classes = bundle.manifest["spec"]["conditioning"]["class_names"]
    classes[:] = [f"{name}-{'x' * 60}".replace(" ", "-") for name in classes]
    return bundle


def test_nothing_is_too_wide_or_covered(own_page: Any, flowship: Terminal, tmp_path: Path) -> None:
    page = own_page
    page.keyboard.press("End")  # no click was needed before
    page.wait_for_function("document.querySelector('main').scrollTop > 0")
    for name in PAGES:
        show(page, name)
        check(page, f"{name}, empty")
    show(page, "device")
    open_bundle(page, long_bundle().zip(tmp_path / "mine.zip"))
    page.locator(".models li.open", has_text="int8").wait_for()
    show(page, "create")
    make(page, 2**64 - 2)
    check(page, "a picture")
    page.get_by_label("How many").fill("65")
    page.get_by_role("button", name="Make a picture").click()
    page.get_by_role("button", name="Close").wait_for()
    check(page, "an error")
    (tmp_path / f"{'n' * 200}.png").write_text("no picture")
    drop(page, tmp_path / f"{'n' * 200}.png", "image/png")
    page.locator(".message.error", has_text="nnn").wait_for()
    check(page, "an error with a long name")
    flowship.ok("generate", "--seed", 1, "-n", 70, "--threads", 1, "-o", "sheet.png")
    drop(page, Path("sheet.png"), "image/png")
    page.get_by_role("button", name="Make the first 64").wait_for()
    check(page, "a recipe")
    show(page, "gallery")
    page.locator(".thumb").first.click()
    check(page, "gallery, a picture's recipe")
    page.get_by_role("button", name="Look inside").click()
    page.locator(".trio").wait_for()
    check(page, "inside, a result")
    page.get_by_role("button", name="Draw").click()
    check(page, "inside, a drawing")
    show(page, "morph")
    page.get_by_role("button", name="Draw").first.click()
    page.get_by_role("button", name="Gallery").last.click()
    check(page, "morph, a drawing")
    show(page, "device")
    measure(page, tmp_path)
    check(page, "device, measured")
    page.evaluate(f"fetch('bundle/{'u' * 300}').then(() => undefined)")
    show(page, "privacy")
    page.locator("td", has_text="uuu").wait_for()
    check(page, "requests")


def error(page: Any) -> Any:
    return page.locator(".message.error .toast")


def gone(page: Any) -> None:
    error(page).wait_for(state="detached")


def test_an_error_goes_away_with_its_cause(own_page: Any, tmp_path: Path) -> None:
    page, go = own_page, own_page.get_by_role("button", name="Make a picture")
    for label, wrong, right in (("How many", "65", "1"), ("Seed", "x", "8")):
        page.get_by_label(label, exact=True).fill(wrong)
        go.click()
        error(page).wait_for()
        page.get_by_label(label, exact=True).fill(right)
        gone(page)
    page.get_by_label("Seed", exact=True).fill("x")
    go.click()
    error(page).wait_for()
    show(page, "inside")  # it was of the page before
    gone(page)
    page.get_by_role("button", name="Look inside").click()
    error(page).get_by_text("Choose a picture first.").wait_for()
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    drop(page, tmp_path / "black.png", "image/png")
    gone(page)
    page.locator(".trio").wait_for()
    (tmp_path / "text.png").write_text("no picture")
    drop(page, tmp_path / "text.png", "image/png")
    error(page).wait_for()
    page.get_by_role("button", name="Look inside").click()  # another task begins
    gone(page)
    page.locator(".trio").wait_for()
    show(page, "device")
    (tmp_path / "not.zip").write_text("no zip")
    open_bundle(page, tmp_path / "not.zip")
    error(page).get_by_text("not a zip").wait_for()
    open_bundle(page, OwnBundle().zip(tmp_path / "mine.zip"))
    page.locator(".models li.open", has_text="mine").wait_for()
    gone(page)


@pytest.mark.parametrize(
    ("colour", "mode", "size", "seen"),
    [
        (0, "L", (28, 28), "The picture as it is: nothing was changed about it."),
        ((9, 99, 199), "RGB", (60, 40), "turned to grey, made smaller and cropped to its middle."),
        ((0, 0, 0, 0), "RGBA", (20, 20), "laid on white where it is transparent and made larger."),
    ],
)  # fmt: skip
def test_likelihood_is_no_verdict(
    own_page: Any, tmp_path: Path, colour: Any, mode: str, size: tuple[int, int], seen: str
) -> None:
    """A flat picture costs few bits, which says nothing of what it shows."""
    Image.new(mode, size, colour).save(tmp_path / "flat.png")
    drop(own_page, tmp_path / "flat.png", "image/png")
    own_page.locator(".trio").wait_for()
    own_page.get_by_role("heading", name="Likelihood").wait_for()
    own_page.get_by_text("What it cannot tell: whether the picture is like those").wait_for()
    assert seen in own_page.locator(".seen").inner_text()
    text = own_page.locator("main").inner_text().lower()
    assert "256 levels over [-1, 1]" in text
    assert not [word for word in ("familiar", "unusual", "never seen", "certain") if word in text]
