"""Device profiles: facts with sources, found by name, listed by the command line."""

from __future__ import annotations

from importlib import resources

import pytest
from command_line import Terminal

from flowship.benchmarks.devices import (
    KINDS,
    Device,
    devices,
    find_device,
    select_devices,
    tier_devices,
)
from flowship.runtime.errors import UsageError


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
        (device.fp16_tensor_tflops, device.fp16_tensor_kind),
        (device.fp16_shader_tflops, device.fp16_shader_kind),
        (device.ai_tops, device.ai_kind),
    ):
        assert (value is None) == (kind == "")


def test_known_facts() -> None:
    rtx = find_device("rtx-4060")
    assert (rtx.bandwidth_gbps, rtx.memory_gb) == (272.0, 8.0)
    assert (rtx.fp16_tensor_tflops, rtx.fp16_shader_tflops) == (60.46, 15.11)
    assert find_device("iphone-se-3").bandwidth_gbps is None  # not stated, so not guessed


@pytest.mark.parametrize("name", ["RTX 4060", "rtx_4060", "rtx-4060"])
def test_lookup_forgives_spelling(name: str) -> None:
    assert find_device(name).id == "rtx-4060"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rtx4060", "did you mean rtx-4060"),
        ("pixel", "did you mean pixel-8a, pixel-10, pixel-9, pixel-9a, pixel-10a"),
        ("zzzz", "see flowship devices"),
        ("", "see flowship devices"),
    ],
)
def test_unknown_names_get_suggestions(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        find_device(name)


def test_selection() -> None:
    pixels = {"pixel-8a", "pixel-9", "pixel-9a", "pixel-10", "pixel-10a"}
    assert {d.id for d in select_devices("pixel")} == pixels
    assert all(d.group == "phone" for d in select_devices(group="phone"))
    assert select_devices("pixel", "laptop") == []


PHONES = "iphone-15 iphone-16 iphone-17 galaxy-s24 galaxy-s25 pixel-8a pixel-9 pixel-9a pixel-10"


@pytest.mark.parametrize("name", PHONES.split())
def test_phones_that_people_have(name: str) -> None:
    phone = find_device(name)
    assert phone.group == "phone" and phone.chip and phone.sources
    if phone.bandwidth_gbps is None:
        assert "bandwidth" in phone.notes  # why it is unknown
    else:
        assert any("bandwidth" in source.facts for source in phone.sources)


def test_the_tier() -> None:
    tier = tier_devices()
    assert {"rtx-4060", "arc-b580", "soc-sd-7s-gen3"} < {device.id for device in tier}
    phones = [d for d in tier if d.group == "phone" and (d.launch_price_usd or 0) >= 200]
    assert len(phones) >= 3
    assert all((d.launch_price_usd or 0) <= 400 for d in tier)


def test_data_lies_inside_the_package() -> None:
    assert (resources.files("flowship.benchmarks") / "data" / "devices.json").is_file()


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="memory_gb of x is 0"):
        Device("x", "X", "phone", memory_gb=0.0)


def test_command_lists_and_filters(flowship: Terminal) -> None:
    assert "rtx-4060" in flowship.ok("devices").out
    found = flowship.ok("devices", "--class", "phone", "--find", "pixel", "--json").json
    assert len(found["devices"]) == 5 and {d["group"] for d in found["devices"]} == {"phone"}


def test_command_shows_one_with_its_sources(flowship: Terminal) -> None:
    out = flowship.ok("devices", "rtx-4060").out
    assert "272 GB/s" in out and "techpowerup.com" in out
    assert "int8:" in out and "not stated" in out
    assert flowship.ok("devices", "rtx-4060", "--json").json["fp16_tensor_tflops"] == 60.46


def test_command_misuse(flowship: Terminal) -> None:
    assert "did you mean rtx-4060" in flowship.refused("devices", "rtx4060")
    assert "leave out the device" in flowship.refused("devices", "rtx-4060", "--find", "x")
    assert "no device profile" in flowship.refused("devices", "--find", "nowhere")
