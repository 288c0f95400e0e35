"""``flowship bench predict``: time and memory of a picture on devices that are not here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.commands.options import is_given, print_json, thread_count
from ..runtime.errors import UsageError
from ..runtime.locks import private_folder
from ..runtime.manifest import Manifest
from ..runtime.plan import PLAN, PlanFile, Profile
from ..runtime.planner import ONE_PATCH
from ..runtime.progress import ProgressLine
from ..runtime.schema import to_json
from ..runtime.table import format_bytes, format_table
from .devices import TIER_USD, Device, find_device, select_devices, tier_devices
from .predict import PRECISIONS, Prediction, Speed, device_speed, predict
from .synthetic_models import export_module, find_preset, published_manifest
from .validate import Validation, typical_error, validate
from .validated import validated

OVERVIEW = "int8"  # weights of the table of all devices: the smallest that every engine runs well


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="(the embedded one)")
    parser.add_argument(
        "--model",
        metavar="SIZE",
        help="a published size instead, such as tarflow-afhq256, without exporting it: sequential "
        "sampling alone (needs the extra export)",
    )
    parser.add_argument(
        "--device",
        metavar="NAMES",
        help="profiles as in rtx-4060,pixel-9a, or all (one line for each of the "
        f"{TIER_USD:.0f} USD tier)",
    )
    parser.add_argument(
        "--precision",
        help=f"of the weights ({','.join(PRECISIONS)}; {OVERVIEW} without --device)",
    )
    parser.add_argument(
        "--guidance",
        action="store_true",
        help="with guidance alone (without and with; without --device without)",
    )
    parser.add_argument(
        "--gbps", type=float, metavar="GB/S", help="memory bandwidth instead of the profile's"
    )
    parser.add_argument(
        "--tflops", type=float, metavar="T", help="fp16 TFLOP/s instead of the profile's"
    )
    group = parser.add_argument_group("how good predictions are")
    group.add_argument(
        "--this-device",
        action="store_true",
        help="predict this machine's calls from its measured limits, and measure them",
    )
    group.add_argument(
        "--threads",
        type=thread_count,
        default=1,
        metavar="N",
        help="of --this-device (%(default)s)",
    )
    group.add_argument(
        "--published",
        metavar="SIZE",
        help="with --this-device: one block of this size as well, such as tarflow-afhq256 "
        "(needs the extra export, 1 GB of disk and a minute)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.this_device:
        return _run_this_device(arguments)
    if arguments.published:
        raise UsageError("--published goes with --this-device")
    if is_given(arguments, "threads"):
        raise UsageError("--threads goes with --this-device")
    overview = not arguments.device
    usual = OVERVIEW if overview else ",".join(PRECISIONS)
    precisions = [word.strip() for word in (arguments.precision or usual).split(",")]
    devices = _devices(arguments)
    speeds = _speeds(arguments, devices)
    manifest, profile = _model(arguments)
    guided = (True,) if arguments.guidance else (False,) if overview else (False, True)
    found = [
        predict(manifest, profile, speed, precision.strip(), with_guidance)
        for speed in speeds.values()
        for precision in precisions
        for with_guidance in guided
    ]
    if arguments.json:
        print_json(
            {
                "bundle": manifest.name,
                "profile": profile is not None,
                "devices": [asdict(speed) for speed in speeds.values()],
                "predictions": [asdict(prediction) for prediction in found],
                "unknown_bandwidth": [d.id for d in devices if d.id not in speeds],
                "validation": to_json(validated()),
            }
        )
    else:
        print(prediction_text(manifest.name, devices, speeds, found, profiled=profile is not None))
        if overview:
            print(
                f"devices of at most {TIER_USD:.0f} USD at launch and phones of that class: "
                "--device all has the others"
            )
    return 0


def _model(arguments: argparse.Namespace) -> tuple[Manifest, Profile | None]:
    """What is predicted, and how its windows converge where that was measured."""
    if arguments.model is not None:
        if arguments.bundle is not None:
            raise UsageError("--model stands for a bundle: leave out the other")
        return published_manifest(arguments.model), None
    with Bundle.open(arguments.bundle) as bundle:
        _check_patches(bundle.manifest)
        profile = PlanFile.loads(bundle.path(PLAN).read_text("utf-8")).profile
        return bundle.manifest, profile


def _check_patches(manifest: Manifest) -> None:
    if manifest.spec.image.num_patches == 1:
        raise UsageError(f"{manifest.name}: {ONE_PATCH}: there is nothing to predict")


def _devices(arguments: argparse.Namespace) -> list[Device]:
    names = arguments.device and [w for w in arguments.device.split(",") if w.strip()]
    every = [word.strip() for word in names] == ["all"] if names else False
    given = arguments.gbps is not None or arguments.tflops is not None
    if given and (not names or every or len(names) > 1):
        raise UsageError("--gbps and --tflops describe one device: say which with --device")
    if not names:
        return tier_devices()
    if every:
        return select_devices()
    return list(dict.fromkeys(find_device(name) for name in names))


def _speeds(arguments: argparse.Namespace, devices: Sequence[Device]) -> dict[str, Speed]:
    """By device, those whose bandwidth is known or given.

    Raises:
        UsageError: that is none.
    """
    given: dict[str, Any] = {"gbps": arguments.gbps, "tflops": arguments.tflops}
    known = [d for d in devices if d.bandwidth_gbps is not None or arguments.gbps is not None]
    return {d.id: device_speed(d, **given) for d in known or devices[:1]}


def prediction_text(
    name: str,
    devices: Sequence[Device],
    speeds: Mapping[str, Speed],
    found: Sequence[Prediction],
    *,
    profiled: bool,
) -> str:
    """The table and, below it, all that was assumed."""
    header = ["device", "GB/s", "tensor", "shader", "weights", "guidance", "sequential", "planned"]
    header += ["range", "gain", "windows", "bound", "memory", "fits"]
    rows = []
    for device in devices:
        rates = _rates(device, speeds.get(device.id))
        mine = [p for p in found if p.device == device.id]
        rows += [[device.id, *rates, *_cells(p)] for p in mine]
        if not mine:
            rows.append([device.id, *rates, *["-"] * 3, *["unknown"] * 2, *["-"] * 5])
    lines = [
        f"{name}: predicted time of one picture (a roofline, not a measurement)",
        format_table(header, rows),
        "tensor, shader: dense fp16 TFLOP/s at their peak, - where no source that was read states "
        "it; tensor counts where it is known (sources: flowship devices NAME)",
        validated().words,
    ]
    if len(speeds) < len(devices):
        lines.append(
            "unknown: no source that was read states the memory bandwidth, on which everything "
            "hangs: give it with --device NAME --gbps"
        )
    if not profiled:
        lines.append("no convergence profile of these weights: sequential sampling alone")
    by_words: dict[str, list[str]] = {}
    for speed in speeds.values():
        by_words.setdefault("; ".join(speed.assumptions), []).append(speed.name)
    lines += [f"assumed for {', '.join(names)}: {words}" for words, names in by_words.items()]
    return "\n".join(lines)


def _rates(device: Device, speed: Speed | None) -> list[str]:
    """GB/s as counted, tensor and shader TFLOP/s as stated."""
    rates = (device.fp16_tensor_tflops, device.fp16_shader_tflops)
    return [
        f"{speed.gbps:.4g}" if speed else "unknown",
        *("-" if rate is None else f"{rate:.4g}" for rate in rates),
    ]


def _cells(p: Prediction) -> list[str]:
    return [
        p.precision,
        "yes" if p.guided else "no",
        _seconds(p.sequential_seconds),
        _seconds(p.planned_seconds),
        " to ".join(map(_seconds, p.planned_range)),
        f"{p.sequential_seconds / p.planned_seconds:.1f}x",
        ",".join(map(str, p.windows.values())),
        p.bound,
        format_bytes(p.memory_bytes),
        p.fits,
    ]


def _seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


# -- this machine ----------------------------------------------------------------------------------


def _run_this_device(arguments: argparse.Namespace) -> int:
    if arguments.model:
        raise UsageError("--this-device measures a bundle: leave out --model (see --published)")
    if arguments.device or arguments.gbps or arguments.tflops:
        raise UsageError("--this-device measures its own rates: leave out --device and rates")
    if is_given(arguments, "precision"):
        raise UsageError("--this-device measures float32: leave out --precision")
    found: list[tuple[Speed, list[Validation]]] = []
    with Bundle.open(arguments.bundle) as bundle:
        _check_patches(bundle.manifest)
        for guided in (True,) if arguments.guidance else (False, True):
            found.append(validate(bundle, threads=arguments.threads, guided=guided))
    if arguments.published:
        found.append(validate_published(arguments.published, arguments.threads))
    if arguments.json:
        runs = [
            {
                "limits": asdict(speed),
                "calls": [asdict(v) | {"ratio": v.ratio} for v in calls],
                "typical_error": typical_error(calls),
            }
            for speed, calls in found
        ]
        print_json({"threads": arguments.threads, "runs": runs})
    else:
        print("\n\n".join(validation_text(speed, calls) for speed, calls in found))
    return 0


def validation_text(speed: Speed, calls: Sequence[Validation]) -> str:
    """One model and guidance: limits, and a line for each window."""
    header = ["window", "predicted us", "measured us", "ratio"]
    rows = [
        [
            str(v.window),
            f"{1e6 * v.predicted_seconds:.0f}",
            f"{1e6 * v.measured_seconds:.0f}",
            f"{v.ratio:.2f}",
        ]
        for v in calls
    ]
    first = calls[0]
    return "\n".join(
        [
            f"{first.model}, {first.stage}, fp32, {'' if first.guided else 'no '}guidance: "
            f"{speed.gbps:.3g} GB/s for its weights, {1e3 * speed.tflops:.3g} GFLOP/s, "
            f"{1e6 * speed.launch_seconds:.3g} us launch",
            format_table(header, rows),
            f"typically off by {typical_error(calls):.0%}",
        ]
    )


def validate_published(size: str, threads: int) -> tuple[Speed, list[Validation]]:
    """Validate on one block of a published size with random weights, exported for it.

    Raises:
        MissingExtraError: the extra export is not installed.
        UsageError: no such size.
    """
    preset = find_preset(size)
    synthetic, pipeline, requests, options = map(
        export_module, ("synthetic", "pipeline", "request", "options")
    )
    with private_folder() as folder:
        config = replace(preset.config, num_blocks=1)
        checkpoint = synthetic.write_checkpoint(folder, preset.dataset, config)
        output = folder / "block.flowship"
        floats = options.TargetOptions(denoise=False)
        request = requests.ExportRequest(("onnx",), ("fp32",), options=floats)
        pipeline.export_checkpoint(checkpoint, output, request, ProgressLine())
        checkpoint.unlink()
        with Bundle.open(output) as bundle:
            return validate(bundle, threads=threads)
