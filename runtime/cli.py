"""The command ``flowship``: finds the subcommand's module by name and imports that one alone.

A subcommand's module has ``add_arguments(parser)`` and ``run(arguments) -> int``. Those
of export, benchmarks and apps live in their own packages and are found by name too, so that the
runtime imports none of them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from .errors import FlowshipError, UsageError

COMMANDS = {
    "generate": ("runtime.commands.generate", "make pictures from seeds"),
    "export": ("export.command", "turn a trained checkpoint into a bundle"),
    "inspect": ("runtime.commands.inspect", "show what is inside a bundle or a checkpoint"),
    "verify": ("runtime.commands.verify", "prove that a bundle is whole and computes right"),
    "compare": ("runtime.commands.compare", "precisions of a bundle side by side"),
    "plan": ("runtime.commands.plan", "choose the sampler's windows for this device"),
    "score": ("runtime.commands.score", "exact likelihood of pictures, in bits per dimension"),
    "encode": ("runtime.commands.encode", "pictures to latents"),
    "decode": ("runtime.commands.decode", "latents to images"),
    "bench": ("benchmarks.command", "measure speed, memory and correctness over a grid"),
    "bench compare": ("benchmarks.compare_command", "faster, slower or the same as before"),
    "bench report": ("benchmarks.report_command", "draw measurements as one HTML file"),
    "bench predict": ("benchmarks.predict_command", "time and memory on devices that are not here"),
    "interpolate": ("runtime.commands.interpolate", "a strip from one picture or seed to another"),
    "devices": ("benchmarks.devices_command", "profiles of phones, laptops and graphics cards"),
    "serve": ("apps.server.command", "the web app and an HTTP API, with this machine's engine"),
}


class _Store(argparse._StoreAction):
    """Also notes that the option was given: a default may have the same value."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        super().__call__(parser, namespace, values, option)
        namespace.given = {*getattr(namespace, "given", ()), self.dest}


class Parser(argparse.ArgumentParser):
    """Misuse is one line on stderr and exit status 2; ``given`` are the options with a value."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, _Store)
        self.register("action", "store", _Store)
        self.set_defaults(given=frozenset())

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser(command: str | None) -> Parser:
    """The parser; only the arguments of ``command`` are filled in."""
    parser = Parser(
        prog="flowship", description="Normalizing-flow image models on the devices people own."
    )
    parser.add_argument("--version", action="version", version=f"flowship {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        chosen = name == command
        sub = commands.add_parser(name, help=summary, description=summary, add_help=chosen)
        if chosen:
            _import(module).add_arguments(sub)
    return parser


def _join_words(arguments: list[str]) -> list[str]:
    """``bench compare`` is one command of two words; ``./compare`` is a bundle of that name."""
    two = " ".join(arguments[:2])
    return [two, *arguments[2:]] if len(arguments) > 1 and two in COMMANDS else arguments


def _import(module: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"{__package__.rpartition('.')[0]}.{module}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for failure, 2 for misuse."""
    arguments = _join_words(list(sys.argv[1:] if argv is None else argv))
    command = next((a for a in arguments if a in COMMANDS), None)
    name = f"flowship {command}" if command else "flowship"
    try:
        parsed = build_parser(command).parse_args(arguments)
        status = int(_import(COMMANDS[parsed.command][0]).run(parsed))
        sys.stdout.flush()  # so that a closed pipe is met here
        return status
    except FlowshipError as error:
        _complain(name, str(error))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        _complain(name, "cancelled")
        return 130
    except BrokenPipeError:  # such as `flowship inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _complain(name, f"{place}{error.strerror or error}")
        return 1
    except MemoryError as error:
        _complain(name, f"out of memory{f': {error}' * bool(str(error))}")
        return 1


def _complain(name: str, message: str) -> None:
    """One line on stderr, also of messages from libraries that have several."""
    lines = (line.strip() for line in message.splitlines())
    print(f"{name}: {' '.join(line for line in lines if line)}", file=sys.stderr)
