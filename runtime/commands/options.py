"""Options that several subcommands take, and how they read numbers, seeds and labels."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..engines import ENGINE_NAMES
from ..engines.base import MAX_THREADS
from ..errors import UsageError
from ..flow import Flow
from ..guidance import GUIDE_WHAT, Guidance
from ..images import Floats
from ..input_paths import check_readable
from ..pictures import MAX_LATENTS, read_images
from ..plan import Plan, PlanFile
from ..progress import say
from ..spec import FlowSpec, ImageSpec
from ..text import ascii_json, is_utf8, printable
from ..text_files import read_text

MAX_PICTURES = MAX_LATENTS  # of one command: a range typed wrong should not fill the disk


def add_bundle(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """The positional BUNDLE."""
    text = "bundle folder or zip, or the word embedded (a small Fashion-MNIST model)"
    text += "; embedded if omitted" * optional
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?" if optional else None, help=text)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--engine, --precision, --device, --threads."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        default="onnx",
        help=f"{', '.join(ENGINE_NAMES)} (%(default)s)",
    )
    group.add_argument("--precision", help="such as fp32, fp16 (the bundle's first for the engine)")
    group.add_argument("--device", default="cpu", help="cpu, cuda, dml, ... (%(default)s)")
    group.add_argument(
        "--plan",
        default="saved",
        metavar="saved|default|FILE",
        help="windows of the sampler: this device's (flowship plan --save) or the bundle's (saved)",
    )
    add_threads(group)


def add_threads(parser: argparse._ActionsContainer) -> None:
    """--threads."""
    parser.add_argument(
        "--threads", type=thread_count, metavar="N", help="threads of one call (by model size)"
    )


def thread_count(text: str) -> int:
    """The type of an option: 1 to MAX_THREADS."""
    if not text.strip().isdecimal() or not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a number of threads, 1 to {MAX_THREADS}"
        )
    return int(text)


def add_guidance(parser: argparse.ArgumentParser) -> None:
    """Everything that the sampling can be told."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--guidance", type=float, default=0.0, metavar="G", help="guidance scale, 0 is none (0)"
    )
    group.add_argument(
        "--guide-what", choices=GUIDE_WHAT, default="ab", help="guide scale a, shift b or both (ab)"
    )
    group.add_argument(
        "--annealed-guidance", action="store_true", help="let the scale grow over the patches"
    )
    group.add_argument(
        "--attn-temp",
        type=float,
        default=1.0,
        metavar="T",
        help="attention temperature of the unconditional branch (1)",
    )
    group.add_argument(
        "--denoise", action="store_true", help="remove the training noise with one score step"
    )


def add_label(parser: argparse.ArgumentParser) -> None:
    """--label."""
    text = "class by name or number; one for all pictures, or one each as in 0,3,4,1"
    parser.add_argument("--label", metavar="NAMES", help=text)


def add_report(parser: argparse.ArgumentParser) -> None:
    """--json and --quiet."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def open_flow(arguments: argparse.Namespace) -> Flow:
    """The flow that the options describe."""
    return Flow.open(
        arguments.bundle,
        engine=arguments.engine,
        precision=arguments.precision,
        threads=arguments.threads,
        device=arguments.device,
        plan=_plan(arguments.plan),
    )


def _plan(choice: str | Plan) -> Plan | Literal["saved", "default"]:
    if isinstance(choice, Plan):
        return choice
    if choice in ("saved", "default"):
        return "saved" if choice == "saved" else "default"
    if choice and not os.path.lexists(choice):
        raise UsageError(f"--plan {choice!r} does not exist: expected saved, default or a file")
    check_readable(choice, "--plan")
    return PlanFile.loads(read_text(choice), choice).plan


def read_guidance(arguments: argparse.Namespace) -> Guidance:
    """What add_guidance() was told of it.

    Raises:
        UsageError: a number that is none, or out of range.
    """
    return Guidance(
        arguments.guidance, arguments.guide_what, arguments.annealed_guidance, arguments.attn_temp
    )


def refuse_together(arguments: argparse.Namespace, option: str, *others: str) -> None:
    """Refuse options of which one would be ignored beside ``option``; names are those of dest.

    Raises:
        UsageError: with what to leave out.
    """
    ignored = [name for name in others if is_given(arguments, name)]
    if is_given(arguments, option) and ignored:
        names = " and ".join(map(dashed, ignored))
        raise UsageError(f"{dashed(option)} leaves nothing to {names}: give one of them")


def is_given(arguments: argparse.Namespace, name: str) -> bool:
    """Whether an option was written, be it with the value of its default."""
    return name in getattr(arguments, "given", ()) or getattr(arguments, name) is True


def dashed(name: str) -> str:
    """An option as it is written, of its dest."""
    return "-o" if name == "output" else "--" + name.replace("_", "-")


def warn_if_guidance_is_idle(arguments: argparse.Namespace) -> None:
    """Both branches are the same network on the same input: say so instead of pretending."""
    read_guidance(arguments)  # what is no number at all is an error
    if arguments.guidance == 0:
        names = ("guide_what", "annealed_guidance", "attn_temp")
        if given := [dashed(name) for name in names if is_given(arguments, name)]:
            words = ", ".join(given)
            say(f"note: {words} changes nothing without --guidance")
    if arguments.guidance > 0 and arguments.label is None and arguments.attn_temp == 1:
        say("note: guidance changes nothing without --label or an --attn-temp other than 1")


def warn_if_label_is_idle(arguments: argparse.Namespace, spec: FlowSpec) -> None:
    """Numbers are ignored by a model without classes; names are an error before this."""
    if arguments.label is not None and not spec.num_classes:
        say("note: this model has no classes, --label changes nothing")


def parse_seeds(text: str, count: int | None) -> list[int]:
    """``7`` (and the next ones for -n), ``0-15``, ``1,4,9`` or a mixture."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first, 0)
            high = int(last, 0) if dash else low
        except ValueError:
            raise UsageError(
                f"--seed {text!r} is not a number, a range or a list, as in 7, 0-15 or 1,4,9"
            ) from None
        if high < low or high - low >= MAX_PICTURES:
            raise UsageError(f"--seed {part}: not a range of 1 to {MAX_PICTURES} seeds")
        seeds += range(low, high + 1)
    if count is not None and not 1 <= count <= MAX_PICTURES:
        raise UsageError(f"-n {count} is not between 1 and {MAX_PICTURES}")
    if count is not None and len(seeds) == 1:
        seeds = list(range(seeds[0], seeds[0] + count))
    if count is not None and len(seeds) != count:
        raise UsageError(f"-n {count} contradicts the {len(seeds)} seeds of --seed {text}")
    return seeds


def read_all(paths: Sequence[Path], spec: ImageSpec) -> tuple[list[str], Floats]:
    """Names and [N, C, H, W] of all pictures in files and folders; one of several has ``[i]``."""
    names: list[str] = []
    parts = []
    for name, images in read_images(paths, spec):
        names += [name] if len(images) == 1 else [f"{name}[{i}]" for i in range(len(images))]
        parts.append(images)
    return names, np.concatenate(parts)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print_json_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def print_json_text(text: str) -> None:
    """JSON on stdout, in ASCII where that is not UTF-8: its own escapes are not JSON's."""
    print(printable(text) if is_utf8(sys.stdout) else ascii_json(text), end="", flush=True)
