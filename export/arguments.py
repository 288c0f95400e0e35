"""The options of ``flowship export`` as a request; wrong ones are found before torch loads."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..runtime.atomic import check_file, check_folder
from ..runtime.bundle_rules import check_name, usable_name
from ..runtime.errors import BundleError, UsageError
from ..runtime.input_paths import check_readable
from ..runtime.labels import read_label_names
from ..runtime.outputs import check_suffix
from ..runtime.text import readable
from .options import FLOATS, WITH_DENOISE, ConfigOverrides, TargetOptions
from .request import Choice, ExportRequest
from .sources.checkpoint_files import CheckpointFiles, without_suffix

DEFAULT_WINDOWS = "1,8,32"
MIN_SIZE = 1000  # bytes; one layer of 16 channels has 3000 weights
DEFAULTS = TargetOptions()


def read_request(arguments: argparse.Namespace) -> ExportRequest:
    """What the options say.

    Raises:
        UsageError: a value that is wrong by itself, or an option that would change nothing.
    """
    request = ExportRequest(
        targets=_split(arguments.targets),
        precisions=_split(arguments.precision),
        overrides=ConfigOverrides(
            in_channels=arguments.in_channels,
            head_dim=arguments.head_dim,
            noise_std=_noise_std(arguments.noise_std),
            label_names=_label_names(arguments.label_names),
        ),
        options=TargetOptions(
            onnx_form=arguments.onnx_form or DEFAULTS.onnx_form,
            onnx_kv_cache=arguments.onnx_kv_cache or DEFAULTS.onnx_kv_cache,
            windows=_windows(arguments.windows or DEFAULT_WINDOWS),
            executorch_dynamic=not arguments.executorch_static,
            denoise=not arguments.no_denoise,
            coreml_compute_units=arguments.coreml_compute_units or DEFAULTS.coreml_compute_units,
        ),
        data=arguments.data,
        name=_name(arguments.name),
        licence=_text("--licence", arguments.licence),
        method=arguments.quantize_method or "auto",
        max_bpd_increase=arguments.max_bpd_increase,
        max_size=arguments.max_size,
        plot=arguments.plot,
        weights=_text("--weights", arguments.weights),
        replace=arguments.replace,
    )
    if request.plot:
        check_suffix(request.plot, (".svg",), "--plot")
    choices, _ = request.choices()
    _refuse_idle(arguments, choices, request.options)
    return request


def find_output(arguments: argparse.Namespace, files: CheckpointFiles) -> Path:
    """The bundle's place: ``-o``, or the checkpoint's name in the current folder."""
    if arguments.output is None:
        return Path(usable_name(without_suffix(files.name)) + ".flowship")
    text = arguments.output
    path = Path(text)
    if not text.strip() or "\0" in text or path.name in ("", ".."):
        raise UsageError(
            f"-o {readable(text)!r} names no bundle: say a folder that is made for it, as in "
            "NAME.flowship"
        )
    return path


def check_places(arguments: argparse.Namespace, output: Path) -> None:
    """Everything that is read or written apart from the checkpoint.

    Raises:
        UsageError: it is not there or cannot be written.
    """
    data, plot = arguments.data, arguments.plot
    if data is not None:
        check_readable(data, "--data", folder=True)
    check_folder(output)
    real = os.path.realpath(output)
    if readable(real) != real:
        raise UsageError(f"-o: {readable(real)} is not UTF-8, which engines need: choose another")
    if plot is None:
        return
    if Path(real) in Path(os.path.realpath(plot)).parents:
        raise UsageError(f"--plot {plot} lies in the bundle, which has a copy of its own")
    check_file(plot)


def _refuse_idle(
    arguments: argparse.Namespace, choices: Sequence[Choice], options: TargetOptions
) -> None:
    """An option that changes nothing was meant for something."""
    targets = {target for target, _ in choices}
    static = (
        "coreml" in targets
        or (options.onnx_form == "core" and "onnx" in targets)
        or ("executorch" in targets and not options.executorch_dynamic)
    )
    denoise = any(precision in WITH_DENOISE[target] for target, precision in choices)
    quantized = any(precision not in FLOATS for _, precision in choices)
    rules = (
        ("--onnx-form", arguments.onnx_form, "onnx" in targets, "the target onnx"),
        ("--onnx-kv-cache", arguments.onnx_kv_cache, "onnx" in targets, "the target onnx"),
        (
            "--executorch-static",
            arguments.executorch_static or None,
            "executorch" in targets,
            "the target executorch",
        ),
        (
            "--coreml-compute-units",
            arguments.coreml_compute_units,
            "coreml" in targets,
            "the target coreml",
        ),
        (
            "--windows",
            arguments.windows,
            static,
            "static graphs (coreml, --onnx-form core, --executorch-static)",
        ),
        (
            "--no-denoise",
            arguments.no_denoise or None,
            denoise,
            "targets with denoising graphs (onnx, and executorch in fp32 and fp16)",
        ),
        ("--quantize-method", arguments.quantize_method, quantized, "quantized precisions"),
    )
    exported = ", ".join(f"{target} {precision}" for target, precision in choices)
    for option, given, used, what in rules:
        if given is not None and not used:
            raise UsageError(f"{option} is for {what}, and {exported} is exported: leave it out")


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def size_in_bytes(text: str) -> int:
    """The type of an option: bytes from ``200MB``; powers of 1000."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kMG]?)B?", text.strip())
    size = round(float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]) if match else 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a size, as in 200MB or 1.5GB")
    if size < MIN_SIZE:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is {size} bytes, less than any model takes: say a size as in 200MB"
        )
    return size


def _text(option: str, text: str | None) -> str | None:
    """Text that a manifest can hold and a terminal can show."""
    if text is not None and not (text.strip() and text.isprintable()):
        raise UsageError(f"{option} {text[:80]!a} is empty or not printable text")
    return text


def _name(text: str | None) -> str | None:
    if text is not None:
        try:
            check_name(text)
        except BundleError as error:
            raise UsageError(f"--{error}") from error
    return text


def _noise_std(text: str | None) -> float | Literal["uniform"] | None:
    if text is None:
        return None
    if text == "uniform":
        return "uniform"
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--noise-std {text!r} is neither a number nor 'uniform'") from None


def _label_names(path: Path | None) -> tuple[str, ...] | None:
    return None if path is None else read_label_names(path)


def _windows(text: str) -> tuple[int, ...]:
    try:
        windows = tuple(int(part) for part in _split(text))
    except ValueError:
        windows = ()
    if not windows or min(windows) < 1:
        raise UsageError(f"--windows {text!r} is not a list of lengths, as in {DEFAULT_WINDOWS}")
    return windows
