"""Draw the app's PNG icons, as public/icons/icon.svg: python apps/web/icons.py."""

from __future__ import annotations

from math import pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "public" / "icons"
SEA, FOAM, SAIL = "#0c5a63", "#8fd6cf", "#f4f1ea"
SUPERSAMPLING = 4


def draw(size: int, *, maskable: bool) -> Image.Image:
    """One icon; a maskable one fills the square and keeps its drawing in the inner 80 percent."""
    side = size * SUPERSAMPLING
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    if maskable:
        pen.rectangle((0, 0, side, side), fill=SEA)
    else:
        pen.rounded_rectangle((0, 0, side - 1, side - 1), side * 15 / 64, fill=SEA)
    scale, shift = (0.72, 0.14) if maskable else (1.0, 0.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return side * (shift + scale * x / 64), side * (shift + scale * y / 64)

    pen.polygon([at(31, 11), at(31, 28), at(17, 28)], fill=SAIL)
    pen.polygon([at(35, 16), at(47, 28), at(35, 28)], fill=SAIL)
    for left, right, height, swing in ((17, 47, 35.5, 1.4), (13, 51, 42.5, 2.0)):
        radius = side * scale * 1.7 / 64
        for step in range(401):
            t = step / 400
            x, y = at(left + (right - left) * t, height + swing * sin(4 * pi * t))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=FOAM)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, size, maskable in (
        ("icon-192", 192, False), ("icon-512", 512, False), ("maskable-512", 512, True)
    ):  # fmt: skip
        draw(size, maskable=maskable).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
