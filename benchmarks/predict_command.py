"""``flowship bench predict``: time and memory of a picture on devices that are not here."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.commands.options import print_json, thread_count
from ..runtime.errors import MissingExtraError, UsageError
from ..runtime.locks import private_folder
from ..runtime.manifest import Manifest
from ..runtime.plan import PLAN, PlanFile, Profile
from ..runtime.planner import ONE_PATCH
from ..runtime.progress import ProgressLine
from ..runtime.table import format_bytes, format_table
from .devices import find_device, select_devices
from .predict import PRECISIONS, Prediction, Speed, device_speed, predict
from .synthetic_models import published_manifest
from .validate import Validation, typical_error, validate


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
        help="profiles as in rtx-4060,pixel-9a (all whose bandwidth is known)",
    )
    parser.add_argument(
        "--precision", default=",".join(PRECISIONS), help="of the weights (%(default)s)"
    )
    parser.add_argument(
        "--guidance", action="store_true", help="with guidance alone (without and with)"
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
    precisions = [word.strip() for word in arguments.precision.split(",")]
    speeds = _speeds(arguments)
    manifest, profile = _model(arguments)
    name = manifest.name
    found = [
        predict(manifest, profile, speed, precision, guided)
        for speed in speeds
        for precision in precisions
        for guided in ((True,) if arguments.guidance else (False, True))
    ]
    if arguments.json:
        print_json(
            {
                "bundle": name,
                "profile": profile is not None,
                "devices": [asdict(speed) for speed in speeds],
                "predictions": [asdict(prediction) for prediction in found],
            }
        )
    else:
        print(prediction_text(name, speeds, found, profiled=profile is not None))
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


def _speeds(arguments: argparse.Namespace) -> list[Speed]:
    given: dict[str, Any] = {"gbps": arguments.gbps, "tflops": arguments.tflops}
    if arguments.device:
        names = dict.fromkeys(word for word in arguments.device.split(",") if word.strip())
        return [device_speed(find_device(name), **given) for name in names]
    if arguments.gbps or arguments.tflops:
        raise UsageError("--gbps and --tflops describe one device: say which with --device")
    return [device_speed(d) for d in select_devices() if d.bandwidth_gbps is not None]


def prediction_text(
    name: str, speeds: Sequence[Speed], found: Sequence[Prediction], *, profiled: bool
) -> str:
    """The table and, below it, all that was assumed."""
    header = ["device", "weights", "guidance", "sequential", "planned", "gain", "windows", "bound"]
    rows = [
        [
            p.device,
            p.precision,
            "yes" if p.guided else "no",
            _seconds(p.sequential_seconds),
            _seconds(p.planned_seconds),
            f"{p.sequential_seconds / p.planned_seconds:.1f}x",
            ",".join(map(str, p.windows.values())),
            p.bound,
            format_bytes(p.memory_bytes),
            p.fits,
        ]
        for p in found
    ]
    lines = [
        f"{name}: predicted time of one picture (a roofline, not a measurement)",
        format_table([*header, "memory", "fits"], rows),
    ]
    if not profiled:
        lines.append("no convergence profile of these weights: sequential sampling alone")
    by_words: dict[str, list[str]] = {}
    for speed in speeds:
        by_words.setdefault("; ".join(speed.assumptions), []).append(speed.name)
    lines += [f"assumed for {', '.join(names)}: {words}" for words, names in by_words.items()]
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


# -- this machine ----------------------------------------------------------------------------------


def _run_this_device(arguments: argparse.Namespace) -> int:
    if arguments.model:
        raise UsageError("--this-device measures a bundle: leave out --model (see --published)")
    if arguments.device or arguments.gbps or arguments.tflops:
        raise UsageError("--this-device measures its own rates: leave out --device and rates")
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
    package = f"{__package__.rpartition('.')[0]}.export"
    try:  # by name: nothing else of the benchmarks needs the exporter
        synthetic = importlib.import_module(f"{package}.synthetic")
        pipeline = importlib.import_module(f"{package}.pipeline")
        requests = importlib.import_module(f"{package}.request")
        targets = importlib.import_module(f"{package}.targets")
    except ModuleNotFoundError as error:
        raise MissingExtraError("--published", error.name or "torch", "export") from error
    if size not in synthetic.PRESETS:
        raise UsageError(f"no published size {size!r}: choose from {', '.join(synthetic.PRESETS)}")
    preset = synthetic.PRESETS[size]
    with private_folder() as folder:
        config = replace(preset.config, num_blocks=1)
        checkpoint = synthetic.write_checkpoint(folder, preset.dataset, config)
        output = folder / "block.flowship"
        options = targets.TargetOptions(denoise=False)
        request = requests.ExportRequest(("onnx",), ("fp32",), options=options)
        pipeline.export_checkpoint(checkpoint, output, request, ProgressLine())
        checkpoint.unlink()
        with Bundle.open(output) as bundle:
            return validate(bundle, threads=threads)
