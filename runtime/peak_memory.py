"""Peak memory: of this process, and of an engine that runs a bundle in a process of its own.

``python -m flowship.runtime.peak_memory JSON`` is that process; it prints the bytes, or null.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from .bundle import Bundle
from .engines import EngineOptions, find_engine
from .engines.base import Engine
from .errors import EngineError
from .flow import Flow
from .model import Model
from .plan import Plan
from .spot_check import sample_prefixes

STATUS = Path("/proc/self/status")
UNMEASURED_ENGINES = ("coreml-interpreter",)  # it checks the file; a device runs it otherwise


@dataclass(frozen=True)
class PeakTask:
    """What the process runs.

    Attributes:
        bundle: its folder.
        engine, precision: which artifacts.
        patches: None makes one picture (seed 0, the first class, patch by patch); a number takes
            that many patches of the first block that is sampled, one after another, and encodes
            them again in one call.
    """

    bundle: str
    engine: str
    precision: str
    patches: int | None


def measure_peak(task: PeakTask) -> int | None:
    """Bytes that a new process has in memory at most, Python and mapped weights included.

    Returns:
        None where it cannot be measured: on Windows without psutil, and with engines that only
        check a file.

    Raises:
        EngineError: the process failed; the message is its last line.
    """
    if task.engine in UNMEASURED_ENGINES:
        return None
    command = [sys.executable, "-m", __name__, json.dumps(asdict(task))]
    failed = f"measuring the peak memory of {task.engine} {task.precision} failed"
    try:
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise EngineError(f"{failed}: no process can be started ({error})") from error
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no output"])[-1]
        raise EngineError(f"{failed}: {last}")
    told: int | None = json.loads(ran.stdout.splitlines()[-1])
    return told


def peak_bytes() -> int | None:
    """Largest resident size of this process so far; None where it is not known."""
    if STATUS.is_file():
        # not getrusage(): its peak includes the parent's from before exec (Linux)
        for line in STATUS.read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None
    if sys.platform == "win32":
        return _windows_peak()
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _windows_peak() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.Process().memory_info().peak_wset)


def _run(bundle: Bundle, engine: Engine, patches: int | None) -> None:
    if patches is not None:
        next(sample_prefixes(Model(bundle, engine), patches))
        return
    label = 0 if bundle.spec.num_classes else None
    Flow(bundle, engine, Plan()).generate(seed=0, label=label)


def main(text: str) -> None:
    task = PeakTask(**json.loads(text))
    with Bundle.open(task.bundle) as bundle:
        options = EngineOptions(task.precision, packed=False)
        with closing(find_engine(task.engine)(bundle, options)) as engine:
            _run(bundle, engine, task.patches)
    print(json.dumps(peak_bytes()))


if __name__ == "__main__":
    main(sys.argv[1])
