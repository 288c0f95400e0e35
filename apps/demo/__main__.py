"""Export the trained checkpoint to all targets, verify, generate with two engines, show a table."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from ...runtime.bundle import Bundle
from ...runtime.flow import Flow
from ...runtime.footprint import footprints
from ...runtime.plan_verdict import sample_pictures
from ...runtime.stats import relative_iqr
from ...runtime.table import format_bytes, format_table
from ...runtime.trust import Series, judge
from ...runtime.untimed import NOT_A_SPEED

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = Path(os.path.relpath(ROOT / "apps" / "demo" / "fmnist_model_4_128_4_4_0.10.pth"))
TEST_PICTURES = Path(os.path.relpath(ROOT / "runtime" / "embedded" / "fashion_mnist_test_512.npz"))
OUTPUT = Path("build") / "demo"
SEED = 7
TIMED_ENGINES = ("onnx", "executorch")  # the interpreter's time says nothing about a phone


def main() -> int:
    """Run the demo in the current folder; its files go to build/demo."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    bundle = OUTPUT / "fashion-mnist.flowship"
    _flowship(
        *("export", CHECKPOINT, "-o", bundle, "--replace", "--targets", "onnx,executorch,coreml"),
        *("--data", TEST_PICTURES, "--name", "fashion-mnist", "--licence", "Apache-2.0"),
    )
    _flowship("verify", bundle)
    for engine in TIMED_ENGINES:
        picture = OUTPUT / f"fashion-mnist-{engine}.png"
        _flowship(
            *("generate", bundle, "--engine", engine, "--seed", SEED, "-n", 20),
            *("--label", ",".join(str(i % 10) for i in range(20)), "--columns", 10),
            *("--guidance", 1.5, "--denoise", "-o", picture),
        )
    times = _times(bundle)
    print(f"\n{_table(bundle, times)}\n")
    print(
        "max_abs_error and PSNR (peak 2, worst of 8 pictures): decoded images against the trained "
        "model in float32 torch.\nbits/dim: 128 Fashion-MNIST test pictures, 256 levels over "
        "[-1, 1], training noise of std 0.1 added, labels given.\nms per image: medians, engines "
        "in turns, one thread, no guidance, no denoising; the Core ML package is checked by an "
        "interpreter here, its speed needs a Mac or an iPhone."
    )
    for line in _doubts(times):
        print(line)
    print()
    for engine in TIMED_ENGINES:
        print(f"pictures ({engine}): {OUTPUT / f'fashion-mnist-{engine}.png'}")
    return 0


def _flowship(*arguments: object) -> None:
    words = list(map(str, arguments))
    print(f"\n$ flowship {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "flowship.runtime", *words], check=True)


def _table(path: Path, times: Mapping[str, Series]) -> str:
    with Bundle.open(path) as bundle:
        sizes = {(f.engine, f.precision): f.disk_bytes for f in footprints(bundle.manifest)}
        rows = [
            [
                q.engine,
                q.precision,
                format_bytes(sizes[q.engine, q.precision]),
                _number(q.image_max_abs_error, ".1e"),
                _number(q.psnr_db, ".1f"),
                _number(q.bits_per_dim, ".4f"),
                *_time(times.get(q.engine)),
            ]
            for q in bundle.manifest.quality
        ]
    header = ["target", "precision", "size", "max_abs_error", "PSNR dB", "bits/dim"]
    return format_table([*header, "ms per image", "spread", "verdict"], rows)


def _time(series: Series | None) -> list[str]:
    if series is None:
        return ["-", "-", NOT_A_SPEED]
    spread = f"{relative_iqr(series.samples):.0%}"
    return [f"{1000 * median(series.samples):.1f}", spread, judge(series)[0]]


def _doubts(times: Mapping[str, Series]) -> Iterator[str]:
    for engine, series in times.items():
        trust, reasons = judge(series)
        if reasons:
            yield f"{engine}: {trust}: {'; '.join(reasons)}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _times(path: Path) -> dict[str, Series]:
    """Seconds of pictures of each engine, taken in turns."""
    with ExitStack() as opened:
        flows = [
            opened.enter_context(Flow.open(path, engine=engine, threads=1))
            for engine in TIMED_ENGINES
        ]
        return dict(zip(TIMED_ENGINES, sample_pictures(flows, guided=False), strict=True))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
