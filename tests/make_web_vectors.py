"""What the web app's tests compare with: values that the Python code gives.

Make them again with ``python tests/make_web_vectors.py`` from the repository's root.
"""

from __future__ import annotations

import copy
import json
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from flowship.runtime import BundleError, Flow
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.bundle_rules import check_manifest
from flowship.runtime.bundle_zip import checked_entries
from flowship.runtime.images import grid
from flowship.runtime.manifest import MANIFEST, Manifest
from flowship.runtime.normal import normals, normals_from_words
from flowship.runtime.plan import PLAN as PLAN_FILE
from flowship.runtime.plan import Plan, PlanFile
from flowship.runtime.prepare import prepare
from flowship.runtime.recipe import Between, Recipe
from flowship.runtime.trust import Series, judge

VECTORS = Path(__file__).parent / "web_vectors" / "vectors.json"
SEED = 0x0123456789ABCDEF
# The first two give another float32 where a multiply-add is contracted; the others are edges.
WORDS = (553165406, 3741801889, 0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
STREAMS = ((SEED, 16, 0, 0), (1, 8, 0, 0), (SEED, 8, 4 * (2**32 + 5), 7))
PLAN = Plan({"block3": 8, "block2": 1}, {"block0": 4}, 2e-05, {"block3": 1.5})
SIZES = ((28, 28, "L"), (40, 31, "RGB"), (17, 60, "RGBA"))


# Every key of a file is left out once, and has each of these values once.
WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    3.5,
    70_000,
    "x",
    "",
    [],
    ["x"],
    {},
    {"x": {"y": 1}},
)


def _bits(values: Any) -> list[str]:
    return [f"{v:08x}" for v in np.asarray(values, "<f4").view("<u4").ravel()]


def _picture(width: int, height: int, mode: str) -> Image.Image:
    count = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    levels = (np.arange(width * height * count) * 37 % 251).astype(np.uint8)
    return Image.fromarray(levels.reshape((height, width, count) if count > 1 else (height, width)))


def _recipe() -> Recipe:
    return Recipe(
        "0.1.0", "näme", "a" * 64, "onnx", "onnxruntime 1.32.0", "cpu", "fp32", PLAN.sha256,
        (2**64 - 1, 3, 4), (None, 7, 0), guidance=1.5, columns=2, plan=PLAN,
    )  # fmt: skip


def _between() -> Recipe:
    """Three of the four pictures on the way between two seeds."""
    way = Between(4, (3, 2**64 - 1))
    return replace(
        _recipe(), seeds=(0, 1, 2), noise="c" * 64, recipe_version=2, between=way, columns=4
    )


def _keys(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every key; of lists and of maps with many names of their own the first."""
    if isinstance(value, dict):
        few = path in (("arrays",), ("files",), ("profile", "floors"))
        for key in list(value)[: 1 if few else None]:
            yield (*path, key)
            yield from _keys(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from _keys(value[0], (*path, 0))


def _check_manifest(text: str) -> None:
    check_manifest(Manifest.loads(text))


def _verdicts(file: str, check: Callable[[str], object]) -> list[dict[str, Any]]:
    """For each key a letter for each change: r where Python refuses the file, t where it takes it.

    The first change leaves the key out, the others are WRONG.
    """
    original = json.loads((EMBEDDED / file).read_text("utf-8"))
    found = []
    for path in _keys(original):
        letters = ""
        for number in range(len(WRONG) + 1):
            changed = copy.deepcopy(original)
            place = changed
            for key in path[:-1]:
                place = place[key]
            if number:
                place[path[-1]] = WRONG[number - 1]
            else:
                del place[path[-1]]
            try:
                check(json.dumps(changed))
                letters += "t"
            except BundleError:
                letters += "r"
        found.append({"path": list(path), "verdicts": letters})
    return found


def _sheets() -> list[dict[str, Any]]:
    """Several pictures on one sheet, with the columns that a recipe names."""
    made = []
    for count, columns, channels in ((6, None, 1), (5, 2, 3), (3, 9, 1), (65, None, 1)):
        levels = (np.arange(count * channels * 6) % 251).astype(np.uint8)
        pictures = levels.reshape(count, channels, 2, 3)
        sheet = grid(pictures, columns)
        made.append({
            "count": count, "columns": columns,
            "sheet": {"width": sheet.shape[2], "height": sheet.shape[1], "channels": channels,
                      "data": sheet.transpose(1, 2, 0).ravel().tolist()},
            "pictures": [p.transpose(1, 2, 0).ravel().tolist() for p in pictures],
        })  # fmt: skip
    return made


# Of zips: what other programs write, and what strangers do.
ZIP_NAMES: tuple[tuple[str, ...], ...] = (
    ("manifest.json", "onnx/x", "__MACOSX/._manifest.json", ".DS_Store", "onnx/._x", "Thumbs.db"),
    ("u\\manifest.json", "u\\onnx\\", "u\\onnx\\x", "u\\Icon\r"),
    ("manifest.json", "onnx\\x", "onnx/y", "./onnx/z", "onnx/./w"),
    ("./", "./u/", "./u/manifest.json", "./u/onnx/x", "._u", ".fseventsd/1"),
    ("Fl\u00f6\u00dfe/manifest.json", "Fl\u00f6\u00dfe/x"),
    ("a/", "a/b/", "a/b/c\\manifest.json", "a/b/c/x"),
    ("a/b/manifest.json", "x/y/manifest.json"),
    ("a/manifest.json", "a/b/manifest.json"),
    ("a/b/manifest.json", "c"),
    ("u/manifest.json", "u/x", "u\\x"),
    ("u/manifest.json", "u/x", "u/X"),
    ("u/manifest.json", "u\\..\\..\\evil"),
    ("u/manifest.json", "..\\evil"),
    ("u/manifest.json", "\\evil"),
    ("u/manifest.json", "u\\C:\\evil"),
    ("u/manifest.json", "\\\\server\\share\\evil"),
    ("u/manifest.json", "u\\nul.txt"),
    ("u/manifest.json", "u/x//y"),
    ("u/manifest.json", "u/._gone", "u/\u00e9"),
    ("u/manifest.json", "u/._gone"),
    ("C:\\u\\manifest.json",),
    ("\\manifest.json",),
    ("../manifest.json",),
    ("a/../manifest.json",),
    ("x",),
)


def _zip_names() -> list[dict[str, Any]]:
    """Paths inside the bundle, in the order of the zip; None where it is refused."""
    found = []
    for names in ZIP_NAMES:
        file = BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                info = zipfile.ZipInfo("placeholder")
                info.filename = name  # the constructor would tidy it
                archive.writestr(info, b"x")
        with zipfile.ZipFile(file) as archive:
            try:
                inner: list[str] | None = list(checked_entries(archive))
            except BundleError:
                inner = None
        found.append({"names": list(names), "inner": inner})
    return found


def _zip64() -> dict[str, Any]:
    """A zip as of more than 4 GB, in a few bytes."""
    file = BytesIO()
    with (
        patch.multiple(zipfile, ZIP64_LIMIT=3, ZIP_FILECOUNT_LIMIT=1),
        zipfile.ZipFile(file, "w") as archive,
    ):
        for name in (MANIFEST, "onnx/x"):
            archive.writestr(zipfile.ZipInfo(name), f"what {name} holds")
    return {"base64": b64encode(file.getvalue()).decode(), "inner": [MANIFEST, "onnx/x"]}


# Milliseconds, and seconds from the first to the last: every rule of a single series, both ways.
SERIES: tuple[tuple[list[float], float], ...] = (
    ([10.0] * 2, 5.0),
    ([10.0, 11.0, 10.0] * 3, 5.0),
    ([10.0 + i % 3 / 10 for i in range(12)], 0.42),
    ([10.0 + i % 3 / 10 for i in range(12)], 1.0),
    ([10.0 + i * 0.3 for i in range(40)], 9.0),
    ([10.0, 15.0, 12.0, 11.0, 30.0, 10.0, 10.0, 25.0, 40.0, 10.0, 11.0, 50.0], 4.0),
    ([10.0] * 20 + [20.0] * 12, 3.0),
    ([10.0] * 30 + [13.0] * 11, 3.0),
    ([100.0, 130.0, 90.0, 200.0, 80.0, 75.5, 300.0, 40.0, 100.0, 101.0], 20.0),
)


def _verdicts_on_time() -> list[dict[str, Any]]:
    found = []
    for samples, seconds in SERIES:
        trust, reasons = judge(Series(samples, span_s=seconds))
        found.append({"samples": samples, "seconds": seconds, "trust": trust,
                      "reasons": list(reasons)})  # fmt: skip
    return found


def make() -> dict[str, Any]:
    with Flow.open(threads=1, plan="default") as flow:
        spec = flow.spec.image
        made = [
            {"seed": str(seed), "label": label, "options": options,
             "pixels": flow.generate(seed=seed, label=label, **options).pictures().ravel().tolist()}
            for seed, label, options in (
                (7, 7, {}), (SEED, 3, {"guidance": 2.0, "annealed": True, "attn_temp": 0.8}),
                (1, None, {"denoise": True}),
            )
        ]  # fmt: skip
        image = prepare(_picture(*SIZES[1]), spec)[None]
        scores = {
            noise: flow.log_likelihood(image, label=2, noise=noise).bits_per_dim.tolist()[0]
            for noise in ("none", "train")
        }
        prepared = [
            {"width": w, "height": h, "mode": mode,
             "input": np.asarray(_picture(w, h, mode)).ravel().tolist(),
             "levels": np.rint((prepare(_picture(w, h, mode), spec) + 1) * 127.5)
             .astype(int).ravel().tolist()}
            for w, h, mode in SIZES
        ]  # fmt: skip
    recipe = _recipe()
    return {
        "words": {str(w): b for w, b in
                  zip(WORDS, _bits(normals_from_words(np.array(WORDS, np.uint32))), strict=True)},
        "streams": [{"seed": str(s), "count": n, "start": start, "domain": domain,
                     "bits": _bits(normals(s, n, start, domain))}
                    for s, n, start, domain in STREAMS],
        "plan_sha256": PLAN.sha256,
        "recipe": recipe.dumps(),
        "between": _between().dumps(),
        "description": recipe.description,
        "prepared": prepared,
        "scores": scores,
        "pictures": made,
        "sheets": _sheets(),
        "zip_names": _zip_names(),
        "zip64": _zip64(),
        "trust": _verdicts_on_time(),
        "wrong": list(WRONG),
        "verdicts": {MANIFEST: _verdicts(MANIFEST, _check_manifest),
                     PLAN_FILE: _verdicts(PLAN_FILE, PlanFile.loads)},
    }  # fmt: skip


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(json.dumps(make()) + "\n", "utf-8")
