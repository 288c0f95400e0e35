"""Device profiles: facts with sources, found by name, listed by the command line."""

from __future__ import annotations

import csv
import io
from importlib import resources

import pytest
from command_line import Terminal

from flowship.benchmarks.devices import KINDS, Device, devices, find_device, select_devices
from flowship.benchmarks.devices_sheet import dumps, sources_of
from flowship.runtime.errors import UsageError
from flowship.runtime.schema import from_json, parse_json


def test_every_class_is_there_and_ids_are_unique() -> None:
    ids = [device.id for device in devices()]
    assert len(set(ids)) == len(ids) >= 30
    assert {device.group for device in devices()} == set(KINDS)


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.id)
def test_every_profile_names_its_sources(device: Device) -> None:
    urls = [url for source in device.sources for url in source.urls]
    assert urls and all(url.startswith(("https://", "http://")) for url in urls)
    for value, kind in (
        (device.bandwidth_gbps, device.bandwidth_kind),
        (device.fp16_tflops, device.fp16_kind),
        (device.ai_tops, device.ai_kind),
    ):
        assert (value is None) == (kind == "")


def test_known_facts() -> None:
    rtx = find_device("rtx-4060")
    assert (rtx.bandwidth_gbps, rtx.memory_gb, rtx.fp16_tflops) == (272.0, 8.0, 60.46)
    assert find_device("iphone-se-3").bandwidth_gbps is None  # not stated, so not guessed


@pytest.mark.parametrize("name", ["RTX 4060", "rtx_4060", "rtx-4060"])
def test_lookup_forgives_spelling(name: str) -> None:
    assert find_device(name).id == "rtx-4060"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rtx4060", "did you mean rtx-4060"),
        ("pixel", "did you mean pixel-9a, pixel-10a"),
        ("zzzz", "see flowship devices"),
        ("", "see flowship devices"),
    ],
)
def test_unknown_names_get_suggestions(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        find_device(name)


def test_selection() -> None:
    assert {d.id for d in select_devices("pixel")} == {"pixel-9a", "pixel-10a"}
    assert all(d.group == "phone" for d in select_devices(group="phone"))
    assert select_devices("pixel", "laptop") == []


def test_data_lies_inside_the_package() -> None:
    assert (resources.files("flowship.benchmarks") / "data" / "devices.json").is_file()


def test_sheet_row_becomes_a_profile() -> None:
    columns = (
        "id,name,class,launch_date,launch_price_usd,chip,os,memory_gb,memory_type,"
        "memory_bandwidth_gb_s,bandwidth_kind,peak_fp16_tflops,fp16_kind,peak_int8_tops,int8_kind,"
        "vendor_ai_tops,vendor_ai_tops_kind,tdp_w,source,source_detail,notes"
    )
    row = "a,Card A,gpu-desktop,,,,,8,,100,vendor,,,,,,,,https://x.org/1 | https://x.org/3,"
    row += '"memory,bandwidth: https://x.org/1 (a note); price: https://x.org/2",'
    text = dumps(csv.DictReader(io.StringIO(f"{columns}\n{row}\n")))
    device = from_json(Device, parse_json(text, "x")["devices"][0], "x")
    assert (device.memory_gb, device.bandwidth_gbps, device.fp16_tflops) == (8.0, 100.0, None)
    facts = [(source.facts, source.urls, source.note) for source in device.sources]
    assert facts == [
        ("memory, bandwidth", ("https://x.org/1",), "a note"),
        ("price", ("https://x.org/2",), ""),
        ("further", ("https://x.org/3",), ""),
    ]
    assert sources_of("", "") == ()


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="memory_gb of x is 0"):
        Device("x", "X", "phone", memory_gb=0.0)


def test_command_lists_and_filters(flowship: Terminal) -> None:
    assert "rtx-4060" in flowship.ok("devices").out
    found = flowship.ok("devices", "--class", "phone", "--find", "pixel", "--json").json
    assert {device["id"] for device in found["devices"]} == {"pixel-9a", "pixel-10a"}


def test_command_shows_one_with_its_sources(flowship: Terminal) -> None:
    out = flowship.ok("devices", "rtx-4060").out
    assert "272 GB/s" in out and "techpowerup.com" in out
    assert "int8:" in out and "not stated" in out
    assert flowship.ok("devices", "rtx-4060", "--json").json["fp16_tflops"] == 60.46


def test_command_misuse(flowship: Terminal) -> None:
    assert "did you mean rtx-4060" in flowship.refused("devices", "rtx4060")
    assert "leave out the device" in flowship.refused("devices", "rtx-4060", "--find", "x")
    assert "no device profile" in flowship.refused("devices", "--find", "nothing")
