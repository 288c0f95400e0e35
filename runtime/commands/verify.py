"""``flowship verify``: prove that a bundle is whole and computes right on this machine."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..bundle import Bundle
from ..progress import ProgressLine
from ..verification import Check, verify_bundle
from .options import add_bundle, add_report, print_json

MARKS = {True: "ok", False: "FAIL", None: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, optional=True)
    parser.add_argument(
        "--engine", help="only this engine (all of the bundle's that are installed)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of one call (by model size)"
    )
    parser.add_argument(
        "--full", action="store_true", help="make whole pictures of large models too (minutes)"
    )
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    checks: list[Check] = []
    progress = ProgressLine(not arguments.quiet)
    with Bundle.open(arguments.bundle) as bundle:
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
        print(f"{name}: " + (f"{len(failed)} checks failed" if failed else "verified"))
    return 1 if failed else 0
