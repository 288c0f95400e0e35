"""``flowship devices``: profiles of phones, laptops and graphics cards, with their sources."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..runtime.commands.options import print_json
from ..runtime.errors import UsageError
from ..runtime.schema import to_json
from ..runtime.table import format_table
from .devices import KINDS, Device, find_device, select_devices

_FIELDS = {
    "chip": ("chip", ""),
    "os": ("system", ""),
    "launch_date": ("launched", ""),
    "launch_price_usd": ("price at launch", "USD"),
    "memory_gb": ("memory", "GB"),
    "memory_type": ("memory type", ""),
    "bandwidth_gbps": ("bandwidth", "GB/s"),
    "fp16_tensor_tflops": ("fp16, tensor units", "TFLOP/s"),
    "fp16_shader_tflops": ("fp16, shaders", "TFLOP/s"),
    "int8_tops": ("int8", "TOP/s"),
    "ai_tops": ("vendor's AI figure", "TOP/s"),
    "tdp_w": ("power", "W"),
}
_KIND_OF = {
    "bandwidth_gbps": "bandwidth_kind",
    "fp16_tensor_tflops": "fp16_tensor_kind",
    "fp16_shader_tflops": "fp16_shader_kind",
    "int8_tops": "int8_kind",
    "ai_tops": "ai_kind",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "device", nargs="?", help="show this one with its sources, such as rtx-4060 (list all)"
    )
    parser.add_argument("--class", dest="group", choices=KINDS, help="only this class of devices")
    parser.add_argument(
        "--find", default="", metavar="WORDS", help="only with these words in name, chip or system"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.device:
        if arguments.group or arguments.find:
            raise UsageError("--class and --find filter the list: leave out the device")
        device = find_device(arguments.device)
        print_json(to_json(device)) if arguments.json else print(describe(device))
        return 0
    found = select_devices(arguments.find, arguments.group)
    if arguments.json:
        print_json({"devices": to_json(found)})
    elif not found:
        raise UsageError("no device profile has these words: see flowship devices")
    else:
        print(list_text(found))
    return 0


def list_text(found: Sequence[Device]) -> str:
    """A table; facts that no source states are empty."""
    header = ["device", "name", "class", "memory GB", "GB/s", "tensor", "shader", "USD"]
    rows = [
        [d.id, d.name, d.group, *map(_cell, _numbers(d))]
        for d in sorted(found, key=lambda d: (KINDS.index(d.group), d.id))
    ]
    return (
        format_table(header, rows) + "\ntensor, shader: dense fp16 TFLOP/s of the matrix units and "
        "of the shaders\n- is not stated by a source that was read; flowship devices NAME has the "
        "sources"
    )


def _numbers(device: Device) -> tuple[float | None, ...]:
    d = device
    rates = (d.fp16_tensor_tflops, d.fp16_shader_tflops)
    return (d.memory_gb, d.bandwidth_gbps, *rates, d.launch_price_usd)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def describe(device: Device) -> str:
    """Every fact with its kind, then the sources."""
    lines = [f"{device.name} ({device.id}, {device.group})"]
    for name, (title, unit) in _FIELDS.items():
        value = getattr(device, name)
        if value in (None, ""):
            text = "not stated by a source that was read"
        else:
            text = f"{value:.5g} {unit}".strip() if isinstance(value, float) else str(value)
            kind = getattr(device, _KIND_OF[name]) if name in _KIND_OF else ""
            text += f" ({kind})" if kind else ""
        lines.append(f"  {title + ':':20}{text}")
    if device.notes:
        lines.append(f"  {'notes:':20}{device.notes}")
    for source in device.sources:
        note = f" ({source.note})" if source.note else ""
        lines.append(f"  source of {source.facts}{note}:")
        lines += [f"    {url}" for url in source.urls]
    return "\n".join(lines)
