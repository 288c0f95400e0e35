"""The prediction on this machine: calls predicted from measured limits, beside measured calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from statistics import fmean

import numpy as np
import numpy.typing as npt

from ..runtime.bundle import Bundle
from ..runtime.engines import EngineOptions, find_engine
from ..runtime.guidance import Guidance
from ..runtime.model import Model
from ..runtime.opening import choose_precision
from ..runtime.sampler import invert_sequential
from ..runtime.timing import time_windows
from .predict import CPU_MATMUL, CPU_READ, Speed
from .roofline import (
    measure_launch_seconds,
    measure_matmul_gflops,
    measure_read_gbps,
    model_costs,
    network_parameters,
)

Floats = npt.NDArray[np.float32]

WINDOWS = (1, 2, 4, 8, 16, 32)
# A layer's 8 nodes (11 with guidance), besides the products, in operators that compute nothing:
# norms and attention look at more tensors, and allocate.
OPERATORS_OF_LAYER = {False: 36, True: 60}
HOST_CALLS = 200
SECONDS = 0.06  # of measuring each limit once
REPEATS, CALLS = 8, 5  # turns of limits and calls, and times each call is measured in a turn


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


def this_device(
    bundle: Bundle, threads: int, guided: bool = False, seconds: float = SECONDS
) -> Speed:
    """This machine's roofline for the bundle's blocks, ``seconds`` spent on each limit.

    A block's weights are read again in every call, so the bandwidth that counts is that of a buffer
    of their size: of a cache where they fit one, of main memory where they do not.
    """
    block = bundle.spec.ar_blocks[0]
    nbytes = 4 * network_parameters(bundle.manifest, block)
    call, operator = measure_launch_seconds(threads, seconds)
    return Speed(
        "this device",
        measure_read_gbps(threads, seconds, nbytes),
        measure_matmul_gflops(threads, seconds) / 1e3,
        CPU_READ,
        CPU_MATMUL,
        call + operator * OPERATORS_OF_LAYER[guided] * block.num_layers + _host(bundle, guided),
        overlap=False,
    )


class _Idle:
    """A stage whose network takes no time."""

    windows: tuple[int, ...] = ()

    def __init__(self, branches: int, patch_dim: int) -> None:
        self._parameters = np.zeros((branches, 1, 1, patch_dim), np.float32)

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        """Nothing to begin."""

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        return self._parameters, self._parameters

    def close(self) -> None:
        """Nothing to close."""


def _host(bundle: Bundle, guided: bool) -> float:
    """Seconds of the sampler's own code in a call."""
    guidance = Guidance(1.0) if guided else Guidance()
    D = bundle.spec.image.patch_dim
    x = np.zeros((1, HOST_CALLS + 1, D), np.float32)
    stage, weights = _Idle(guidance.branches, D), guidance.weights(HOST_CALLS + 1)
    start = time.perf_counter()
    for _ in invert_sequential(stage, x, guidance, weights):
        pass
    return (time.perf_counter() - start) / HOST_CALLS


def validate(
    bundle: Bundle, *, threads: int = 1, guided: bool = False, windows: Sequence[int] = WINDOWS
) -> tuple[Speed, list[Validation]]:
    """Predict and measure float32 calls of the first block with ONNX Runtime on the CPU.

    All blocks of a model have the same size, so one stands for all. Limits and calls take turns
    and the best of each counts: a machine that is slow for a minute is slow for both.

    Raises:
        UsageError: the bundle has no float32 artifacts for ONNX.
    """
    precision = choose_precision(bundle, "onnx", "fp32")
    block, T = bundle.spec.ar_blocks[0], bundle.spec.image.num_patches
    menu = [window for window in windows if window <= T - 1]
    engine = find_engine("onnx")(bundle, EngineOptions(precision, threads=threads))
    try:
        model, speeds, calls = Model(bundle, engine), [], []
        for _ in range(REPEATS):
            speeds.append(this_device(bundle, threads, guided))
            # one round each: a median of several would not be the best, as the limits are
            calls += [time_windows(model, block, menu, guided, 1) for _ in range(CALLS)]
    finally:
        engine.close()
    speed = _fastest(speeds)
    measured = {window: min(times[window] for times in calls) for window in menu}
    name = bundle.manifest.name
    found = []
    for window in menu:
        cost = model_costs(bundle.manifest, precision, window, guided)[block.name]
        predicted = speed.seconds(cost)
        found.append(Validation(name, block.name, window, guided, predicted, measured[window]))
    return speed, found


def _fastest(speeds: Sequence[Speed]) -> Speed:
    """The best of each limit."""
    return replace(
        speeds[0],
        gbps=max(speed.gbps for speed in speeds),
        tflops=max(speed.tflops for speed in speeds),
        launch_seconds=min(speed.launch_seconds for speed in speeds),
    )


def typical_error(found: Sequence[Validation]) -> float:
    """Geometric mean of how far off the ratios are: 0.2 is 20 % too much or too little."""
    return exp(fmean(abs(log(validation.ratio)) for validation in found)) - 1
