"""A new process that makes one picture: time to first image, load time, peak memory.

``python -m flowship.benchmarks.cold_start JSON`` prints a line of JSON when the picture is there;
who started it knows when that was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from ..runtime.errors import EngineError
from ..runtime.peak_memory import peak_bytes
from .contender import BundlePath, FlowContender, Subject
from .grid import Case

TIMEOUT = 3600.0  # seconds


@dataclass(frozen=True)
class ColdStart:
    """What the new process told.

    Attributes:
        ttfi_ms: from its start to the picture.
        load_ms: opening bundle and engine, imports left out.
        peak_memory_mb: largest resident size, mapped weights included; None where unknown.
    """

    ttfi_ms: float
    load_ms: float
    peak_memory_mb: float | None


def cold_start(path: BundlePath, case: Case, subject: Subject) -> ColdStart:
    """Start a process for one picture and wait for it.

    Raises:
        EngineError: it failed; the message is its last line.
    """
    what = {"path": None if path is None else str(path), "case": asdict(case)}
    what["subject"] = asdict(subject)
    command = [sys.executable, "-m", __name__, json.dumps(what)]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
            _, errors = process.communicate(timeout=TIMEOUT)
        except BaseException:  # its picture is of no use any more, and would be waited for
            process.kill()
            raise
    if process.returncode or not line:
        last = (errors.strip().splitlines() or ["no output"])[-1]
        raise EngineError(f"the cold start of {case.engine} failed: {last}")
    told = json.loads(line)
    return ColdStart(1000 * seconds, told["load_ms"], told["peak_memory_mb"])


def main(text: str) -> None:
    what = json.loads(text)
    start = time.perf_counter()
    contender = FlowContender(what["path"], Case(**what["case"]), Subject(**what["subject"]))
    load = time.perf_counter() - start
    contender.run()
    peak = peak_bytes()
    told = {"load_ms": 1000 * load, "peak_memory_mb": None if peak is None else peak / 1e6}
    print(json.dumps(told), flush=True)
    contender.close()


if __name__ == "__main__":
    main(sys.argv[1])
