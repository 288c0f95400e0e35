"""Peak memory of each precision of a bundle, for its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..runtime.manifest import MANIFEST, Manifest
from ..runtime.peak_memory import PeakTask, measure_peak
from ..runtime.progress import ProgressLine
from .options import FLOATS
from .targets import checking_engine

# It is rounded up to it. The same process differs by 0.3 MB from run to run; Python and ONNX
# Runtime alone take 75 MB.
PEAK_UNIT = 10_000_000


def add_peak_memory(
    manifest: Manifest, root: Path, patches: int | None, progress: ProgressLine
) -> Manifest:
    """By processes that open the bundle, which is complete but for this number.

    Only where precisions are compared: a number that is measured may differ from one export to
    the next, and with it the bundle's identity.
    """
    if all(quality.precision in FLOATS for quality in manifest.quality):
        return manifest
    (root / MANIFEST).write_text(manifest.dumps())
    found = []
    for quality in manifest.quality:
        if quality.peak_memory_bytes is not None:  # was measured when it was exported
            found.append(quality)
            continue
        progress.update(0.99, f"peak memory, {quality.engine} {quality.precision}")
        name = checking_engine(quality.engine)
        peak = measure_peak(PeakTask(str(root), name, quality.precision, patches))
        if peak is not None:
            peak = -(-peak // PEAK_UNIT) * PEAK_UNIT
        found.append(replace(quality, peak_memory_bytes=peak))
    return replace(manifest, quality=tuple(found))
