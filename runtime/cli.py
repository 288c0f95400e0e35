"""The command ``flowship``: finds the subcommand's module by name and imports that one alone.

A subcommand's module has ``add_arguments(parser)`` and ``run(arguments) -> int``. Those
of export, benchmarks and apps live in their own packages and are found by name too, so that the
runtime imports none of them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from .errors import FlowshipError, MissingExtraError, UsageError
from .extras import EXTRAS
from .program import exit_status, in_a_word, interrupter
from .progress import say

BUNDLE_FIRST = "BUNDLE comes first; the word embedded names the built-in model"
TRACEBACK = "FLOWSHIP_TRACEBACK"

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


# Options whose several values are one word, and those that take several in two commands alone.
LISTS = ("--seed", "--seeds", "--label")
LISTS_OF = {"plan": ("--threads",), "bench": ("--threads", "--window", "--guidance")}


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
        self.register("type", Path, _path)  # of every option that has ``type=Path``
        self.set_defaults(given=frozenset())

    def error(self, message: str) -> NoReturn:
        takes_bundle = any(a.dest == "bundle" and not a.option_strings for a in self._actions)
        if takes_bundle and message.startswith("the following arguments are required"):
            message += f": {BUNDLE_FIRST}"
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _path(text: str) -> Path:
    if not text:  # a script's variable that was not set; Path("") would be the current folder
        raise argparse.ArgumentTypeError("the name is empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is no name of a file")
    return Path(text)


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


def main(argv: Sequence[str] | None = None, loaded: Callable[[], None] = lambda: None) -> int:
    """Run one command; returns the exit status: 0, 1 for failure, 2 for misuse, 128 + n for a
    signal.

    Args:
        argv: the words of the command; None for those of this process.
        loaded: called once the command's modules are imported.

    Exceptions that nobody expected are raised where the environment has FLOWSHIP_TRACEBACK.
    """
    arguments = _join_words(list(sys.argv[1:] if argv is None else argv))
    name = f"flowship {arguments[0]}" if arguments and arguments[0] in COMMANDS else "flowship"
    try:
        status = _run(arguments, loaded)
        _flush()
        return status
    except BaseException as error:
        _give_up_stdout()
        status, message = _explain(interrupter.raised or error)
        if message:
            say(_one_line(f"{name}: {message}"))
        return status


def _run(arguments: list[str], loaded: Callable[[], None]) -> int:
    _check_command(arguments)
    try:
        parser = build_parser(arguments[0] if arguments else None)
        parsed, unknown = parser.parse_known_args(arguments)
    except SystemExit as end:  # --help, --version and misuse: argparse has printed it
        return int(end.code or 0)
    loaded()
    _check_lists(arguments, parsed)
    if unknown:  # argparse would send to the help of all commands
        words = " ".join(unknown)
        raise UsageError(f"unknown arguments: {words} (see flowship {parsed.command} --help)")
    return int(_import(COMMANDS[parsed.command][0]).run(parsed))


def _check_lists(arguments: list[str], parsed: argparse.Namespace) -> None:
    """Of ``--seeds 1 2`` argparse takes the 2 for a bundle."""
    lists = LISTS_OF.get(parsed.command, LISTS)
    given = getattr(parsed, "bundles", None) or [getattr(parsed, "bundle", None)]
    for option, first, second in zip(arguments, arguments[1:], arguments[2:], strict=False):
        numbers = all(re.fullmatch(r"\d[\d.,-]*", word) for word in (first, second))
        if option in lists and numbers and second in given and not os.path.lexists(second):
            raise UsageError(f"{option} {first} {second}: write {option} {first},{second}")


def _check_command(arguments: list[str]) -> None:
    first = arguments[0] if arguments else "--help"
    if first in COMMANDS:
        _check_second(arguments)
    elif not first.startswith("-"):
        raise UsageError(f"there is no command {first!r}{_similar(first, COMMANDS)}")
    elif not {first, *arguments} & {"-h", "--help", "--version"}:
        raise UsageError(
            f"{first} is no option of flowship itself: those of a command come after it, as in "
            f"flowship generate {first} (see flowship --help)"
        )


def _check_second(arguments: list[str]) -> None:
    """``bench comapre`` means no bundle, unless there is one."""
    words = {name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{arguments[0]} ")}
    second = arguments[1] if words and len(arguments) > 1 else ""
    if second and second not in words and _close(second, words, 0.7) and not os.path.exists(second):
        raise UsageError(f"there is no bench {second!r}{_similar(second, words)}")


def _similar(word: str, known: Iterable[str]) -> str:
    found = _close(word.lower(), known)
    hint = f": did you mean {found[0]}?" if found else ""
    return f"{hint} (see flowship --help)"


def _close(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    from difflib import get_close_matches  # for mistakes alone: no import at every start

    return get_close_matches(word, known, n=1, cutoff=cutoff)


# ---- the end ------------------------------------------------------------------------------------


def _flush() -> None:
    """So that a closed pipe or a full disk is met here, and not when Python ends."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit status and what to say; an exception that is not for users is raised again."""
    if isinstance(error, FlowshipError):
        return 2 if isinstance(error, UsageError) else 1, str(error)
    if isinstance(error, KeyboardInterrupt):
        status = exit_status(error)
        return status, in_a_word(status - 128)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        # such as `flowship inspect ... | head`: whoever closed it knows
        is_quiet = isinstance(error, BrokenPipeError)
        return 1, "" if is_quiet else f"{place}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return 1, f"out of memory{f': {error}' * bool(str(error))}"
    if isinstance(error, ImportError):
        return 1, _explain_import(error)
    if isinstance(error, UnicodeEncodeError) and len(error.object) < 256:
        return 1, (
            f"{error.object!r} has letters that {error.encoding}, the encoding of this system, "
            "does not have: choose another name"
        )
    if not isinstance(error, Exception) or os.environ.get(TRACEBACK):
        raise error
    kind = type(error).__name__
    return 1, f"{kind}: {error}: this is a mistake of flowship, {TRACEBACK}=1 shows where"


def _give_up_stdout() -> None:
    """Where it cannot be written, what waits in it goes nowhere, also when Python ends."""
    try:
        _flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain_import(error: ImportError) -> str:
    package = str(error.name).partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRAS:
        return str(MissingExtraError("this", package, EXTRAS[package]))
    return f"this installation is broken: {error}"


def _one_line(text: str) -> str:
    """Messages of libraries have several."""
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line for line in lines if line)
