"""The prediction on this machine: calls predicted from measured limits, beside measured calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean

from ..runtime.bundle import Bundle
from ..runtime.engines import EngineOptions, find_engine
from ..runtime.flow import choose_precision
from ..runtime.model import Model
from ..runtime.spec import ARBlock
from ..runtime.timing import time_windows
from .predict import CPU_MATMUL, CPU_READ, Speed
from .roofline import (
    measure_launch_seconds,
    measure_matmul_gflops,
    measure_read_gbps,
    model_costs,
    network_parameters,
)

WINDOWS = (1, 2, 4, 8, 16, 32)
OPERATORS_OF_LAYER = 13  # nodes of the ONNX step graph for one layer, after ONNX Runtime's fusions
SECONDS = 0.5  # of measuring each limit
REPEATS, ROUNDS = 8, 3  # of measuring the calls


@dataclass(frozen=True)
class Validation:
    """A call of one block: predicted and measured, in seconds."""

    model: str
    stage: str
    window: int
    guided: bool
    predicted_seconds: float
    measured_seconds: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_seconds / self.measured_seconds


def this_device(bundle: Bundle, threads: int) -> Speed:
    """This machine's roofline for the bundle's blocks.

    A block's weights are read again in every call, so the bandwidth that counts is that of a buffer
    of their size: of a cache where they fit one, of main memory where they do not.
    """
    block = bundle.spec.ar_blocks[0]
    nbytes = 4 * network_parameters(bundle.manifest, block)
    call, operator = measure_launch_seconds(threads, SECONDS)
    return Speed(
        "this device",
        measure_read_gbps(threads, SECONDS, nbytes),
        measure_matmul_gflops(threads, SECONDS) / 1e3,
        CPU_READ,
        CPU_MATMUL,
        call + operator * OPERATORS_OF_LAYER * block.num_layers,
    )


def validate(
    bundle: Bundle, *, threads: int = 1, guided: bool = False, windows: Sequence[int] = WINDOWS
) -> tuple[Speed, list[Validation]]:
    """Predict and measure float32 calls of the first block with ONNX Runtime on the CPU.

    All blocks of a model have the same size, so one stands for all.

    Raises:
        UsageError: the bundle has no float32 artifacts for ONNX.
    """
    precision = choose_precision(bundle, "onnx", "fp32")
    block, T = bundle.spec.ar_blocks[0], bundle.spec.image.num_patches
    menu = [window for window in windows if window <= T - 1]
    speed = this_device(bundle, threads)
    engine = find_engine("onnx")(bundle, EngineOptions(precision, threads=threads))
    try:
        measured = _best_times(Model(bundle, engine), block, menu, guided)
    finally:
        engine.close()
    name = bundle.manifest.name
    found = []
    for window in menu:
        cost = model_costs(bundle.manifest, precision, window, guided)[block.name]
        predicted = speed.seconds(cost)
        found.append(Validation(name, block.name, window, guided, predicted, measured[window]))
    return speed, found


def _best_times(
    model: Model, block: ARBlock, windows: Sequence[int], guided: bool
) -> dict[int, float]:
    """The best of short measurements, as limits are the best of theirs: a busy moment hits both."""
    found = [time_windows(model, block, windows, guided, ROUNDS) for _ in range(REPEATS)]
    return {window: min(times[window] for times in found) for window in windows}


def typical_error(found: Sequence[Validation]) -> float:
    """Geometric mean of how far off the ratios are: 0.2 is 20 % too much or too little."""
    return exp(fmean(abs(log(validation.ratio)) for validation in found)) - 1
