"""devices.json from a spreadsheet: ``python -m flowship.benchmarks.devices_sheet SHEET.csv``.

Facts are collected in a spreadsheet, one device in a row; this turns its CSV into the data file
(on stdout), each source with the facts that it is for.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..runtime.schema import to_json
from .devices import Device, DeviceFile, Source

_NUMBERS = {
    "launch_price_usd": "launch_price_usd",
    "memory_gb": "memory_gb",
    "bandwidth_gbps": "memory_bandwidth_gb_s",
    "fp16_tflops": "peak_fp16_tflops",
    "int8_tops": "peak_int8_tops",
    "ai_tops": "vendor_ai_tops",
    "tdp_w": "tdp_w",
}
_TEXTS = {
    "id": "id",
    "name": "name",
    "chip": "chip",
    "os": "os",
    "memory_type": "memory_type",
    "bandwidth_kind": "bandwidth_kind",
    "fp16_kind": "fp16_kind",
    "int8_kind": "int8_kind",
    "ai_kind": "vendor_ai_tops_kind",
    "notes": "notes",
}
_FACTS = re.compile(r"(?:^|;\s*)([a-zA-Z][\w ,+/-]*):\s*(?=https?://)")
_URL = re.compile(r"https?://[^\s;|]+")


def device_of(row: Mapping[str, str]) -> Device:
    """One row of the sheet; an empty cell is an unknown fact."""
    values: dict[str, Any] = {name: row[column].strip() for name, column in _TEXTS.items()}
    for name, column in _NUMBERS.items():
        values[name] = float(row[column]) if row[column].strip() else None
    values["group"] = row["class"]
    values["launch_date"] = row["launch_date"].strip() or None
    return Device(sources=sources_of(row["source_detail"], row["source"]), **values)


def sources_of(detail: str, urls: str) -> tuple[Source, ...]:
    """``date,price: URL (note); compute: URL ; URL``, and the URLs that it leaves out."""
    parts = _FACTS.split(detail)
    found = []
    for facts, text in zip(parts[1::2], parts[2::2], strict=True):
        note = _URL.sub("", text).strip(" ;|()")
        found.append(Source(", ".join(facts.split(",")), tuple(_URL.findall(text)), note))
    named = {url for source in found for url in source.urls}
    others = tuple(dict.fromkeys(url for url in _URL.findall(urls) if url not in named))
    return (*found, *([Source("further", others)] if others else []))


def dumps(rows: Iterable[Mapping[str, str]]) -> str:
    """The text of devices.json; unknown facts are left out."""
    document = to_json(DeviceFile(1, tuple(device_of(row) for row in rows)))
    document["devices"] = [_known(device) for device in document["devices"]]
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [])}


if __name__ == "__main__":
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as sheet:
        sys.stdout.write(dumps(csv.DictReader(sheet)))
