"""The command ``flowship``: finds the subcommand's module by name and imports that one alone.

A subcommand's module has ``add_arguments(parser)`` and ``run(arguments) -> int``. Those
of export, benchmarks and apps live in their own packages and are found by name too, so that the
runtime imports none of them.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from .errors import FlowshipError, UsageError

COMMANDS = {
    "generate": ("runtime.commands.generate", "make pictures from seeds"),
    "export": ("export.command", "turn a trained checkpoint into a bundle"),
    "inspect": ("runtime.commands.inspect", "show what is inside a bundle or a checkpoint"),
    "verify": ("runtime.commands.verify", "prove that a bundle is whole and computes right"),
    "score": ("runtime.commands.score", "exact likelihood of pictures, in bits per dimension"),
    "encode": ("runtime.commands.encode", "pictures to latents"),
    "decode": ("runtime.commands.decode", "latents to images"),
    "interpolate": ("runtime.commands.interpolate", "a strip from one picture or seed to another"),
}


class Parser(argparse.ArgumentParser):
    """Misuse is one line on stderr and exit status 2."""

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


def _import(module: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"{__package__.rpartition('.')[0]}.{module}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for failure, 2 for misuse."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in arguments if a in COMMANDS), None)
    name = f"flowship {command}" if command else "flowship"
    try:
        parsed = build_parser(command).parse_args(arguments)
        return int(_import(COMMANDS[parsed.command][0]).run(parsed))
    except FlowshipError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"{name}: cancelled, nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `flowship inspect ... | head`
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"{name}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
