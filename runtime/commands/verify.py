"""``flowship verify``: prove that a bundle is whole and computes right on this machine."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..bundle import Bundle
from ..engines import find_engine
from ..errors import UsageError
from ..opening import choose_precision
from ..progress import ProgressLine
from ..verification import Check, runnable_engines, verify_bundle
from .options import add_bundle, add_report, add_threads, print_json

MARKS = {True: "ok", False: "FAIL", None: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, optional=True)
    parser.add_argument(
        "--engine", help="only this engine (all of the bundle's that are installed)"
    )
    add_threads(parser)
    parser.add_argument(
        "--full", action="store_true", help="make whole pictures of large models too (minutes)"
    )
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    checks: list[Check] = []
    progress = ProgressLine(not arguments.quiet)
    with Bundle.open(arguments.bundle) as bundle:
        if arguments.engine:
            _check_engine(bundle, arguments.engine)
        found = verify_bundle(
            bundle, engine=arguments.engine, threads=arguments.threads, full=arguments.full
        )
        for check in found:
            checks.append(check)
            progress.clear()
            if not arguments.json:
                print(f"{MARKS[check.passed]:4} {check.name}: {check.detail}", flush=True)
        name = bundle.manifest.name
    failed = [check.name for check in checks if check.passed is False]
    if arguments.json:
        rows = [asdict(check) for check in checks]
        print_json({"bundle": name, "passed": not failed, "checks": rows})
    else:
        print(f"{name}: {_summary(checks)}")
    return 1 if failed else 0


def _check_engine(bundle: Bundle, engine: str) -> None:
    """Raises UsageError where there would be nothing to check."""
    find_engine(engine)
    choose_precision(bundle, engine, None)
    names = list(dict.fromkeys(name for name, _, _ in runnable_engines(bundle)))
    if engine not in names:
        raise UsageError(f"{engine} does not run on this system: choose from {', '.join(names)}")


def _summary(checks: list[Check]) -> str:
    failed = sum(check.passed is False for check in checks)
    if failed:
        return f"{failed} check{'s' * (failed > 1)} failed"
    return "verified" + ", but not what is marked -" * any(c.passed is None for c in checks)
