"""The HTML report and the comparison, with rows of strangers: hostile strings, other devices."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal

from flowship.benchmarks.formats import read_rows, write_rows
from flowship.benchmarks.report import write_report
from flowship.benchmarks.row import Row, summarized
from flowship.benchmarks.trust import judged

HOSTILE = (
    '"><img src="https://evil.example/x" onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "a & b 'c' \"d\"",
)
# What may fetch or run; the report has no such tag, and none of these attributes.
ACTIVE_TAGS = {"img", "link", "iframe", "object", "embed", "image", "use", "base", "form", "audio"}
FETCHING = {"src", "href", "xlink:href", "srcset", "action", "data", "background", "poster"}


class Page(HTMLParser):
    """Tags, attributes and text of a document."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def row(median: float, seed: int, **fields: Any) -> Row:
    """Sixty samples with 1 % of noise around a median: what a quiet machine gives."""
    noise = np.random.default_rng(seed).normal(0, 0.01, 60)
    times = tuple(float(t) for t in median * (1 + noise))
    found = Row(model="m", engine="onnx", precision="fp32", threads=1, samples_ms=times)
    return judged(summarized(replace(found, **fields)))


def written(path: Path, *rows: Row) -> Path:
    write_rows(path, rows)
    return path


def hostile_rows() -> list[Row]:
    texts = iter(HOSTILE * 20)
    fields = ("model", "engine", "precision", "window", "machine", "os", "conditions", "commit")
    hostile: list[dict[str, Any]] = [{f: next(texts) for f in fields} for _ in range(4)]
    bad = [replace(row(20, i), **values) for i, values in enumerate(hostile)]
    bad = [replace(r, notes=HOSTILE, accuracy_source=HOSTILE[0], device=HOSTILE[1]) for r in bad]
    flagged = replace(bad[0], sample_flags=(HOSTILE[0],) * 60)
    return [*bad, flagged, Row(model="m", engine="e", status="skipped", reason=HOSTILE[1])]


def test_the_command_joins_files_of_every_format(flowship: Terminal, tmp_path: Path) -> None:
    names = ("a.md", "b.csv", "c.json", "d.jsonl", "e.sqlite")
    files = [written(tmp_path / n, row(20 + i, i, model=n)) for i, n in enumerate(names)]
    report = tmp_path / "report.html"
    assert flowship.ok("bench", "report", *files, "-o", report).out == f"{report}\n"
    assert [found.model for found in read_rows(report)] == list(names)
    again = tmp_path / "again.html"
    flowship.ok("bench", "report", report, "-o", again)
    assert again.read_text("utf-8") == report.read_text("utf-8")


def test_every_row_is_drawn_and_in_the_table(flowship: Terminal, tmp_path: Path) -> None:
    rows = [row(20 + i, i, model=f"model-{i}") for i in range(7)]
    rows.append(Row(model="absent", engine="e", status="skipped", reason="no such engine"))
    report = tmp_path / "report.html"
    flowship.ok("bench", "report", written(tmp_path / "a.jsonl", *rows), "-o", report)
    page = Page(report.read_text("utf-8"))
    assert page.tags.count("tr") == 3 + 7 * 3 + 1
    assert page.tags.count("rect") == 7
    assert page.tags.count("circle") == 7 * 60
    assert all(page.text.count(f"model-{i} onnx fp32 t=1") == 5 for i in range(7))
    assert "skipped: no such engine" in page.text


def test_hostile_strings_stay_text(flowship: Terminal, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    source = written(tmp_path / "a.json", *hostile_rows())
    flowship.ok("bench", "report", source, "-o", report)
    text = report.read_text("utf-8")
    page = Page(text)
    assert not ACTIVE_TAGS & set(page.tags)
    assert page.tags.count("script") == 1 and text.count("</script>") == 1
    assert "<!--" not in text
    assert not FETCHING & {name for name, _ in page.attributes}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"@import|url\(", text.partition("</style>")[0])
    assert all(word in page.text for word in (HOSTILE[0], HOSTILE[3]))
    assert read_rows(report) == read_rows(source)


def test_report_misuse(flowship: Terminal, tmp_path: Path) -> None:
    assert "does not exist" in flowship.refused("bench", "report", "none.json", "-o", "x.html")
    (tmp_path / "a.json").write_text("[1]")
    error = flowship.refused("bench", "report", tmp_path / "a.json", "-o", tmp_path / "x.html")
    assert "row 1: expected an object" in error
    assert not (tmp_path / "x.html").exists()


def test_the_place_of_a_report_is_checked_first(flowship: Terminal, tmp_path: Path) -> None:
    error = flowship.refused("bench", "report", "none.json", "-o", tmp_path / "no" / "x.html")
    assert "no/x.html: the folder" in error


# -- compare ---------------------------------------------------------------------------------------


def test_the_same_is_the_same_and_slower_fails(flowship: Terminal, tmp_path: Path) -> None:
    a = written(tmp_path / "a.jsonl", row(20, 0))
    b = written(tmp_path / "b.csv", row(20, 1))
    slow = written(tmp_path / "slow.sqlite", row(26, 2))
    gate = ("--fail-if-slower", "5%")
    assert "same" in flowship.ok("bench", "compare", a, b, *gate).out
    ran = flowship("bench", "compare", a, slow, *gate)
    assert ran.status == 1 and "slower" in ran.out and "regression: m onnx fp32" in ran.err
    two = written(tmp_path / "two.jsonl", row(20, 0), replace(row(20, 0), threads=2))
    ran = flowship("bench", "compare", two, b, *gate)
    assert ran.status == 1 and "missing" in ran.out and "B has no such case" in ran.err
    assert flowship("bench", "compare", a, slow).status == 0  # without the gate it only tells
    assert "slower" in flowship.ok("bench", "compare", a, slow, "--fail-if-slower", "40%").out
    assert "faster" in flowship.ok("bench", "compare", slow, a, *gate).out


@pytest.mark.parametrize("side", ["--a", "--b"])
def test_what_one_side_leaves_out_is_left_out_of_both(
    flowship: Terminal, tmp_path: Path, side: str
) -> None:
    """Cases of the other file are neither mixed in nor missing; what is lost besides still is."""
    both = row(20, 0), row(12, 1, threads=2)
    two, again = (written(tmp_path / f"{n}.jsonl", *both) for n in ("two", "again"))
    one = written(tmp_path / "one.jsonl", row(20, 2))
    gate = ("--fail-if-slower", "5%", side)
    for b in (again, one):
        found = flowship.ok("bench", "compare", two, b, *gate, "threads=1", "--json").json
        assert [c["verdict"] for c in found["comparisons"]] == ["same"]
    ran = flowship("bench", "compare", two, one, *gate, "engine=onnx")
    assert ran.status == 1
    assert ran.err == "regression: m onnx fp32 t=2: B has no such case\n"
    assert "no row has threads=2" in flowship.refused(
        "bench", "compare", two, one, "--a", "threads=2"
    )
    pair = ("--a", "threads=1", "--b", "threads=2")
    assert "faster" in flowship.ok("bench", "compare", two, again, *pair).out


def phone(**fields: Any) -> dict[str, Any]:
    """What an app writes: a few fields of ours, some that only it knows."""
    times = [30 + 0.1 * i for i in range(12)]
    return {"model": "m", "engine": "wasm", "samples_ms": times, "battery_level": 0.8, **fields}


@pytest.mark.parametrize("wrap", ["rows", "list", "one"])
def test_rows_of_other_devices_compare(flowship: Terminal, tmp_path: Path, wrap: str) -> None:
    """Unknown keys are ignored: an app may tell more than we know. What we know is checked."""
    record = phone(gpu={"vendor": "x"}, machine="Pixel 9a")
    document = {"rows": {"rows": [record], "schema": 7}, "list": [record], "one": record}[wrap]
    (tmp_path / "phone.json").write_text(json.dumps(document))
    laptop = written(tmp_path / "laptop.jsonl", row(20, 0, machine="laptop"))
    words = ("bench", "compare", laptop, tmp_path / "phone.json")
    assert "say --ignore engine,precision,threads,machine" in flowship.refused(*words)
    found = flowship.ok(*words, "--ignore", "engine,precision,threads,machine", "--json").json
    (comparison,) = found["comparisons"]
    assert comparison["verdict"] == "slower"
    assert comparison["name"] == "m onnx fp32 t=1 / m wasm"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"cores": "8"}, "row 1.cores: expected an integer, got '8'"),
        ({"samples_ms": [1, -2]}, "not above 0"),
        ({"trust": "surely"}, "expected one of 'trusted'"),
        ({"sample_flags": ["busy"]}, "1 sample_flags for 12 samples_ms"),
    ],
)
def test_what_we_know_is_checked(
    flowship: Terminal, tmp_path: Path, field: dict[str, Any], message: str
) -> None:
    path = tmp_path / "phone.json"
    path.write_text(json.dumps(phone(**field)))
    assert message in flowship.refused("bench", "compare", path, path)


def test_a_median_alone_is_shown_and_unclear(flowship: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "phone.json"
    path.write_text(json.dumps({"model": "m", "engine": "wasm", "median_ms": 30}))
    ran = flowship("bench", "compare", path, path, "--json")
    (found,) = ran.json["comparisons"]
    assert ran.status == 3
    assert (found["verdict"], found["ratio"]) == ("unclear", 1.0)
    assert "0 and 0 samples" in found["reasons"][-1]


# -- what is beside every number -------------------------------------------------------------------


def all_kinds() -> list[Row]:
    """Rows of every verdict, a wrong limit, a copy, one that is no speed, one skipped."""
    busy = {"sample_flags": ("busy",) * 60, "other_cores": 0.9}
    full = row(20, 0, model="fashion-mnist", window="auto", read_gbps=40.0, limit_read_gbps=21.6)
    full = replace(full, gflops=12.0, limit_gflops=60.0, ttfi_ms=312.0, peak_memory_mb=95.0)
    return [
        replace(full, bits_per_dim_change=-1e-9, psnr_db=200.0, joules_per_image=0.31),
        row(26, 1, model="noisy", span_s=0.3),
        row(36, 2, model="a-very-long-name-that-a-user-gave-to-the-bundle", **busy),
        row(70, 3, engine="coreml-interpreter", psnr_db=58.0),
        replace(full, window="1", same_as=full.name),
        Row(model="absent", engine="teapot", status="skipped", reason="nothing for teapot"),
    ]


def test_verdict_and_spread_stand_beside_every_time(flowship: Terminal, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    flowship.ok("bench", "report", written(tmp_path / "a.jsonl", *all_kinds()), "-o", report)
    page = Page(report.read_text("utf-8"))
    assert page.tags.count("rect") == 3  # neither what is no speed nor what was measured once
    for word in ("trusted", "noisy", "not trustworthy"):
        assert len(re.findall(rf"spread 1% ?{word}", page.text)) == 2  # the bar and the samples
        assert len(re.findall(rf"(?<!not ){word}", page.text)) >= 3  # and the table
    visible = page.text.partition('{"rows"')[0]
    assert "not a speed" in visible and not re.search(r"\b(70|857)\b", visible)
    assert page.text.count("40 (wrong limit: 21.6)") == 1 and "12 (20% of 60)" in page.text
    assert "wrong limit: more was reached than the limit" in page.text
    assert "the same case as fashion-mnist onnx fp32 W=auto t=1" in page.text
    assert "-0.00000" not in page.text


@pytest.mark.parametrize("width", [360, 1280])
def test_no_column_is_cut(chromium: Any, tmp_path: Path, width: int) -> None:
    write_report(tmp_path / "report.html", all_kinds())
    page = chromium.new_page(viewport={"width": width, "height": 800})
    try:
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        cut = "[...document.querySelectorAll('td, .head span')].filter(e => e.scrollWidth > "
        cut += "e.clientWidth + 1 && getComputedStyle(e).display != 'inline').length"
        assert page.evaluate(cut) == 0
        wide = "[...document.querySelectorAll('section')].filter(e => e.scrollWidth > "
        assert page.evaluate(wide + "e.clientWidth).length") == 0
    finally:
        page.close()
