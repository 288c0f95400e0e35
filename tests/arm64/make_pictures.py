"""make_pictures.py OUT.npz: pictures of fixed seeds with the embedded model, on any processor.

Prints one line of JSON for each case, with the SHA-256 of its noise and its 8-bit pictures. Runs
with numpy, pillow, onnxruntime and flowship alone.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowship.runtime import Flow

PAIR: dict[str, Any] = {"seed": (3, 2**40 + 4), "label": ("sneaker", "dress")}
CASES: dict[str, dict[str, Any]] = {
    "unconditional": {"seed": (1, 2)},
    "label": PAIR,
    "guided": {**PAIR, "guidance": 1.5},
    "annealed": {**PAIR, "guidance": 2.0, "annealed": True, "attn_temp": 1.2},
    "denoised": {**PAIR, "guidance": 1.5, "denoise": True},
}


def main(out: Path) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {}
    # The bundle's own plan and one thread: nothing that was measured on this machine.
    with Flow.open(plan="default", threads=1) as flow:
        for name, options in CASES.items():
            start = time.monotonic()
            made = flow.generate(**options)
            found: dict[str, npt.NDArray[Any]] = {
                "noise": made.noise,
                "images": made.images,
                "pictures": made.pictures(),
            }
            arrays |= {f"{name}/{key}": array for key, array in found.items()}
            said = {key: _sha256(found[key]) for key in ("noise", "pictures")}
            seconds = round(time.monotonic() - start, 2)
            line = {"case": name, "seconds": seconds, **said, **_describe(flow)}
            print(json.dumps(line), flush=True)
    np.savez(out, allow_pickle=False, **arrays)


def _describe(flow: Flow) -> dict[str, str]:
    """What must be another one on another processor (the machine), and what the same."""
    return {
        "machine": platform.machine(),
        "numpy": np.__version__,
        "onnxruntime": flow.engine.info.version,
        "bundle": flow.bundle.sha256,
    }


def _sha256(array: npt.NDArray[Any]) -> str:
    little = array.astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
