"""How long a picture takes on a device that is not here: the roofline with the model's profile.

    t(W) = max(bytes / (bandwidth * read efficiency), FLOP / (peak * matmul efficiency)) + launch
           (on a CPU the sum of both: a core loads a panel of weights, then multiplies with it)
    time = sum over the blocks of the smallest (T - 1) * t(W) / a(W)

a(W), the patches that a call commits, is a property of the model and comes with the bundle. How
good the method is can be seen on this machine: see ``validate.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..runtime.errors import UsageError
from ..runtime.manifest import Manifest
from ..runtime.plan import DEFAULT_TOLERANCE, Profile
from ..runtime.planner import choose_windows, chosen_windows, planned_seconds, sequential_seconds
from .devices import Device, Kind
from .roofline import CACHE_BYTES, CallCost, model_costs
from .validated import validated

PRECISIONS = ("fp16", "int8", "int4")
# Share of the limits that our step graphs reach on a CPU, from calls of an AFHQ-256 block (fp32,
# ONNX Runtime 1.32, one thread) on two machines in the same minute as their limits: reading 86 %
# and 97 %; what a window adds to that runs at 58 % of the matrix rate with AVX-512, 105 % with the
# slower units of another. GPUs and phones were not measured: their shares are assumptions.
CPU_READ, CPU_MATMUL = 0.9, 0.75

Fit = Literal["yes", "one block at a time", "no", "unknown"]
Bound = Literal["memory", "compute", "launch"]


@dataclass(frozen=True)
class Assumptions:
    """What no profile states, for a class of devices.

    Attributes:
        read, matmul: share of the peaks that is reached. Half of the matrix peak, because windows
            of tens of rows do not fill it and fp16 peaks count 16-bit sums.
        launch_ms: fixed time of a call of one block.
        tflops: fp16 peak where the profile has none.
        memory: share of the memory that one program gets (an iPhone with 6 GiB ends programs above
            2.8 GiB).
    """

    read: float
    matmul: float
    launch_ms: float
    tflops: float
    memory: float


_GPU = Assumptions(read=0.85, matmul=0.5, launch_ms=0.2, tflops=10.0, memory=0.9)
_PHONE = Assumptions(read=0.8, matmul=0.5, launch_ms=0.5, tflops=2.0, memory=0.45)
_LAPTOP = Assumptions(read=0.8, matmul=0.5, launch_ms=0.3, tflops=4.0, memory=0.6)
ASSUMED: dict[Kind, Assumptions] = {
    "gpu-desktop": _GPU,
    "gpu-laptop": _GPU,
    "phone": _PHONE,
    "phone-soc": _PHONE,
    "laptop": _LAPTOP,
    "desktop": _LAPTOP,
    "sbc": _LAPTOP,
}


@dataclass(frozen=True)
class Speed:
    """A device in the numbers of the roofline.

    Attributes:
        name: of the device.
        gbps, tflops: peak rates.
        read, matmul: share of them that is reached.
        launch_seconds: fixed time of a call of one block.
        memory_bytes: that one program gets; None is unknown.
        assumptions: what of this no source states, in words.
        overlap: it reads and computes at the same time.
    """

    name: str
    gbps: float
    tflops: float
    read: float
    matmul: float
    launch_seconds: float
    memory_bytes: float | None = None
    assumptions: tuple[str, ...] = ()
    overlap: bool = True

    def times(self, cost: CallCost) -> dict[Bound, float]:
        """Seconds that each resource needs for a call."""
        return {
            "memory": cost.bytes / (self.gbps * 1e9 * self.read),
            "compute": cost.flops / (self.tflops * 1e12 * self.matmul),
            "launch": self.launch_seconds,
        }

    def seconds(self, cost: CallCost) -> float:
        """t(W), of which launching never overlaps with anything."""
        return sum(self.spent(cost).values())

    def spent(self, cost: CallCost) -> dict[Bound, float]:
        """The parts whose sum a call is: where reading and computing overlap, the longer one."""
        times = self.times(cost)
        if self.overlap:
            del times["compute" if times["memory"] >= times["compute"] else "memory"]
        return times


def device_speed(
    device: Device, *, gbps: float | None = None, tflops: float | None = None
) -> Speed:
    """The roofline of a profile; what it lacks is given here or assumed aloud.

    Args:
        gbps, tflops: instead of the profile's (such as rates that were measured).

    Raises:
        UsageError: the bandwidth, on which everything hangs, is neither in the profile nor given.
    """
    for name, value in (("bandwidth", gbps), ("fp16 rate", tflops)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} {value} is not above 0")
    bandwidth = gbps or device.bandwidth_gbps
    if bandwidth is None:
        raise UsageError(
            f"no source that was read states the memory bandwidth of {device.id}: give it with "
            "--gbps to predict its speed"
        )
    assumed, words = ASSUMED[device.group], []
    words.append(f"{assumed.read:.0%} of the bandwidth and {assumed.matmul:.0%} of the fp16 peak")
    words.append(f"launch overhead of {assumed.launch_ms:g} ms for each call, measured nowhere")
    peak = tflops or device.fp16_tensor_tflops or device.fp16_shader_tflops
    if tflops is not None:
        words.append(f"{tflops:g} TFLOP/s in fp16, as given")
    elif peak is None:
        words.append(f"{assumed.tflops:g} TFLOP/s in fp16, which no source read states")
    elif device.fp16_tensor_tflops is None:
        words.append("the shaders' fp16 rate, as no source read states one of tensor units")
    memory = None
    if device.memory_gb:
        memory = device.memory_gb * 1e9 * assumed.memory
        words.append(f"{assumed.memory:.0%} of the memory for one program")
    return Speed(
        device.id,
        bandwidth,
        peak or assumed.tflops,
        assumed.read,
        assumed.matmul,
        assumed.launch_ms / 1e3,
        memory,
        tuple(words),
    )


@dataclass(frozen=True)
class Prediction:
    """One picture on one device.

    Attributes:
        sequential_seconds, planned_seconds: with W = 1, and with the best window of each block.
        windows: that best window, by stage.
        planned_range: the planned time with the errors that predictions had where calls could be
            measured; see validation.py for where, which is not this device.
        bound: what most of the planned time is spent on.
        memory_bytes: weights of all blocks, KV cache and activations.
        least_memory_bytes: the same with the weights of one block at a time.
        fits: whether the device has so much.
    """

    device: str
    precision: str
    guided: bool
    sequential_seconds: float
    planned_seconds: float
    planned_range: tuple[float, float]
    windows: dict[str, int]
    bound: Bound
    memory_bytes: float
    least_memory_bytes: float
    fits: Fit


def predict(
    manifest: Manifest, profile: Profile | None, speed: Speed, precision: str, guided: bool
) -> Prediction:
    """Time and memory of one picture; sequential alone where the bundle has no profile.

    Args:
        precision: one of roofline.WEIGHT_BYTES; the bundle need not have it.
    """
    spec = manifest.spec
    profile = profile or Profile(0, DEFAULT_TOLERANCE, "nothing", ())
    menu = sorted({1, *(e.window for e in profile.entries if (e.guidance > 0) == guided)})
    costs = {window: model_costs(manifest, precision, window, guided) for window in menu}
    times = {
        block.name: {window: speed.seconds(costs[window][block.name]) for window in menu}
        for block in spec.ar_blocks
    }
    options = choose_windows(spec, profile, times, guided)
    windows = chosen_windows(options)
    spent: dict[Bound, float] = dict.fromkeys(("memory", "compute", "launch"), 0.0)
    for option in options:
        if option.chosen:
            for bound, seconds in speed.spent(costs[option.window][option.stage]).items():
                spent[bound] += seconds * option.block_seconds / option.call_seconds
    memory, least = _memory(manifest, {n: costs[w][n] for n, w in windows.items()}, precision)
    if guided:  # one more KV cache
        cache = _cache_bytes(manifest, precision)
        memory, least = memory + cache, least + cache
    return Prediction(
        speed.name,
        precision,
        guided,
        sequential_seconds(options),
        planned_seconds(options),
        validated().around(planned_seconds(options)),
        windows,
        max(spent, key=lambda bound: spent[bound]),
        memory,
        least,
        _fit(memory, least, speed.memory_bytes),
    )


def _memory(manifest: Manifest, costs: dict[str, CallCost], precision: str) -> tuple[float, float]:
    weights = [cost.weight_bytes for cost in costs.values()]
    rest = _cache_bytes(manifest, precision)
    rest += max(cost.activation_bytes for cost in costs.values())
    return sum(weights) + rest, max(weights) + rest


def _cache_bytes(manifest: Manifest, precision: str) -> float:
    """KV cache of the largest block, one branch."""
    T, value = manifest.spec.image.num_patches, CACHE_BYTES.get(precision, 2)
    return max(2.0 * b.num_layers * T * b.channels * value for b in manifest.spec.ar_blocks)


def _fit(memory: float, least: float, available: float | None) -> Fit:
    if available is None:
        return "unknown"
    if memory <= available:
        return "yes"
    return "one block at a time" if least <= available else "no"
