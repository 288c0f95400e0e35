"""Device profiles: published facts about phones, laptops and graphics cards, each with its source.

A fact that no source states is absent; it is never guessed here. What a prediction assumes in its
place is said by ``predict.py``, in its results too.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from math import inf
from typing import Literal, get_args

from ..runtime.errors import UsageError
from ..runtime.schema import from_json, parse_json

DATA = "devices.json"
Kind = Literal["gpu-desktop", "gpu-laptop", "phone", "phone-soc", "laptop", "desktop", "sbc"]
KINDS: tuple[Kind, ...] = get_args(Kind)


_POSITIVE = (
    "memory_gb",
    "bandwidth_gbps",
    "fp16_tensor_tflops",
    "fp16_shader_tflops",
    "int8_tops",
    "ai_tops",
    "tdp_w",
)
TIER_USD = 400.0  # what the devices cost that this project is for


@dataclass(frozen=True)
class Source:
    """Where facts were read: ``facts`` names them, such as ``date, memory, bandwidth``."""

    facts: str
    urls: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Device:
    """One device; None is "no source read states it".

    Attributes:
        id: the name on the command line, such as ``rtx-4060``.
        group: what sort of device it is, one of KINDS.
        launch_date, launch_price_usd: of the launch; today's price may be another.
        memory_gb: of the card, or the main memory that everything shares.
        bandwidth_gbps: GB/s from that memory at its theoretical best.
        fp16_tensor_tflops, fp16_shader_tflops: peak rates of the matrix units, dense, and of the
            shaders, which differ by up to 4 on one card. ``_kind`` says whose figures they are.
        int8_tops: peak rate; sparse figures count zeros that nobody multiplies.
        ai_tops: the vendor's headline; kinds differ, so two of them are never comparable.
        tdp_w: design power, watts.
    """

    id: str
    name: str
    group: Kind
    chip: str = ""
    os: str = ""
    launch_date: str | None = None
    launch_price_usd: float | None = None
    memory_gb: float | None = None
    memory_type: str = ""
    bandwidth_gbps: float | None = None
    bandwidth_kind: str = ""
    fp16_tensor_tflops: float | None = None
    fp16_tensor_kind: str = ""
    fp16_shader_tflops: float | None = None
    fp16_shader_kind: str = ""
    int8_tops: float | None = None
    int8_kind: str = ""
    ai_tops: float | None = None
    ai_kind: str = ""
    tdp_w: float | None = None
    sources: tuple[Source, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} of {self.id} is {value}, expected more than 0")


@dataclass(frozen=True)
class DeviceFile:
    """The whole of devices.json."""

    schema_version: int
    devices: tuple[Device, ...]


@cache
def devices() -> tuple[Device, ...]:
    """Every profile, in the order of the data file."""
    text = (resources.files(__package__) / "data" / DATA).read_text("utf-8")
    return from_json(DeviceFile, parse_json(text, DATA), DATA).devices


def find_device(name: str) -> Device:
    """The profile with this id; case, spaces and underscores do not matter.

    Raises:
        UsageError: there is none; the message suggests similar ones.
    """
    wanted = "-".join(name.lower().replace("_", " ").split())
    by_id = {device.id: device for device in devices()}
    if wanted in by_id:
        return by_id[wanted]
    parts = [known for known in by_id if wanted and wanted in known]
    similar = parts or get_close_matches(wanted, by_id, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(similar[:6])}?" if similar else "see flowship devices"
    raise UsageError(f"no device profile is called {name!r}: {hint}")


def tier_devices() -> list[Device]:
    """Those that cost at most TIER_USD at their launch, and the profiles of phones that do."""
    return [
        device
        for device in devices()
        if device.group == "phone-soc" or (device.launch_price_usd or inf) <= TIER_USD
    ]


def select_devices(words: str = "", group: Kind | None = None) -> list[Device]:
    """Profiles that have every word somewhere in their id, name, chip or OS."""
    found = []
    for device in devices():
        text = f"{device.id} {device.name} {device.chip} {device.os}".lower()
        if group in (None, device.group) and all(word in text for word in words.lower().split()):
            found.append(device)
    return found
