"""What a call costs in bytes and FLOP, and how many of both this machine can do in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..runtime.engines.onnxruntime_import import import_onnxruntime
from ..runtime.errors import BundleError, UsageError
from ..runtime.manifest import Manifest
from ..runtime.spec import ARBlock

Floats = npt.NDArray[np.float32]

# Of one key or value: on the devices predicted for, whatever is smaller than fp32 keeps it in fp16.
CACHE_BYTES = {"fp32": 4}
STREAM_BYTES = 256 << 20  # several times the last cache of any laptop or phone
CHUNK_BYTES = 1 << 20  # of one reduction: 30 us, so that the call itself costs nothing
# 0.27 GFLOP, from where on a core reaches its best rate. A product of 1024 takes up to 50 ms, as
# long as a busy system lets a program run: no sample is undisturbed while calls, far shorter, are.
MATMUL_SIZE = 512
CHAIN = (2, 102)  # operators of the two models whose difference is the cost of an operator
WARM_UP = 2

# Bytes of one weight with its share of the scales: int8 has an fp16 scale for 128 weights, int4
# one for 32 (the blocks of flowship's own quantized exports).
WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1 + 2 / 128, "int4": 0.5 + 2 / 32}
# Values of a row that a layer writes and reads: two norms, qkv, attention, two residual sums, and
# an MLP of four times the width with its activation.
ACTIVATIONS_OF_LAYER = 26


# -- this machine ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The best rates that this machine reached, in the run whose other numbers stand beside them.

    Attributes:
        read_gbps: GB/s of a stream read from main memory.
        matmul_gflops: GFLOP/s of a float32 matrix product.
        threads: that computed both.
    """

    read_gbps: float
    matmul_gflops: float
    threads: int


def measure_limits(threads: int, seconds: float = 1.0) -> Limits:
    """Measure both limits, half of the time each.

    The best sample counts, not the median: a limit is what nothing can exceed, so a disturbed
    moment must not lower it and make what is measured against it look good.

    Raises:
        UsageError: threads below 1.
        MissingExtraError: ONNX Runtime is not installed.
    """
    read = measure_read_gbps(threads, seconds / 2)
    return Limits(read, measure_matmul_gflops(threads, seconds / 2), threads)


def measure_read_gbps(threads: int, seconds: float, nbytes: int = STREAM_BYTES) -> float:
    """GB/s at which ``threads`` threads read ``nbytes`` again and again.

    numpy's maximum of float32 does a vector instruction for each load and no more, and gives up the
    interpreter lock, so that Python threads read at once. It needs no engine, and none is favoured.
    With few bytes it is the rate of the cache that holds them.
    """
    _check(threads)
    data = np.ones(max(1, nbytes // 4), np.float32)
    parts = np.array_split(data, threads)
    step = CHUNK_BYTES // 4
    chunks = [[part[i : i + step] for i in range(0, len(part), step)] for part in parts]

    def read(mine: list[Floats]) -> None:
        for chunk in mine:
            chunk.max()

    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            list(pool.map(read, chunks)) if threads > 1 else read(chunks[0])

        return data.nbytes / _best_seconds(run, seconds) / 1e9


def measure_matmul_gflops(threads: int, seconds: float, size: int = MATMUL_SIZE) -> float:
    """GFLOP/s of a float32 product of two square matrices in ONNX Runtime.

    In the engine's own library, because numpy's takes no number of threads from its caller. Both
    matrices are inputs, so that nothing is packed beforehand: packing is in the time, 2 % of it.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    stream = np.random.Generator(np.random.SFC64(0))
    inputs = {name: stream.standard_normal((size, size), np.float32) for name in "ab"}
    best = _best_seconds(_runner(_matmul_model(size), threads, inputs), seconds)
    return 2 * size**3 / best / 1e9


def measure_launch_seconds(threads: int, seconds: float) -> tuple[float, float]:
    """(a call, one operator more in it): what ONNX Runtime takes when nothing is to be computed.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    inputs = {"a": np.ones((1, 1), np.float32)}
    few, many = (
        _best_seconds(_runner(_chain_model(length), threads, inputs), seconds / 2)
        for length in CHAIN
    )
    operator = max(0.0, (many - few) / (CHAIN[1] - CHAIN[0]))
    return max(0.0, few - CHAIN[0] * operator), operator


def _runner(model: bytes, threads: int, inputs: dict[str, Floats]) -> Callable[[], object]:
    _check(threads)
    onnxruntime = import_onnxruntime("measuring limits")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def _check(threads: int) -> None:
    if threads < 1:
        raise UsageError(f"threads {threads} is below 1")


def _best_seconds(run: Callable[[], object], seconds: float) -> float:
    for _ in range(WARM_UP):
        run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def _matmul_model(size: int) -> bytes:
    """An ONNX model c = a @ b, written as protobuf so that the package onnx is not needed."""
    return _model(size, [(b"MatMul", (b"a", b"b"), b"c")], (b"a", b"b"))


def _chain_model(length: int) -> bytes:
    """An ONNX model of ``length`` operators on one number."""
    names = [b"a", *(b"t%d" % i for i in range(length - 1)), b"c"]
    nodes = [(b"Neg", (before,), after) for before, after in pairwise(names)]
    return _model(1, nodes, (b"a",))


_Node = tuple[bytes, tuple[bytes, ...], bytes]  # operator, inputs, output


def _model(size: int, nodes: Sequence[_Node], inputs: tuple[bytes, ...]) -> bytes:
    """Nodes on float32 [size, size]; the last one's output is the model's."""
    dims = b"".join(_field(1, _field(1, size)) for _ in range(2))
    shaped = _field(2, _field(1, _field(1, 1) + _field(2, dims)))
    graph = b""
    for operator, names, output in nodes:
        node = b"".join(_field(1, name) for name in names)
        graph += _field(1, node + _field(2, output) + _field(4, operator))
    graph += _field(2, b"limits")
    graph += b"".join(_field(11, _field(1, name) + shaped) for name in inputs)
    graph += _field(12, _field(1, nodes[-1][2]) + shaped)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))  # IR version 8, opset 17


def _field(number: int, value: bytes | int) -> bytes:
    """A protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


# -- the model -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CallCost:
    """One call of one block, at the average position of a picture.

    Attributes:
        weight_bytes: of the block's network, read once whatever the window.
        cache_bytes: keys and values of the earlier patches read, those of the window written.
        activation_bytes: written and read between the operators. At the windows that pay they stay
            in the processor's caches, so they are not part of ``bytes``.
        flops: multiplications and additions of the matrix products and of attention.
    """

    weight_bytes: float
    cache_bytes: float
    activation_bytes: float
    flops: float

    @property
    def bytes(self) -> float:
        """That main memory has to move."""
        return self.weight_bytes + self.cache_bytes

    def gbps(self, seconds: float) -> float:
        """GB/s reached by a call that took ``seconds``."""
        return self.bytes / seconds / 1e9

    def gflops(self, seconds: float) -> float:
        """GFLOP/s reached by a call that took ``seconds``."""
        return self.flops / seconds / 1e9


def model_costs(
    manifest: Manifest, precision: str, window: int = 1, guided: bool = False
) -> dict[str, CallCost]:
    """Cost of a call of each block, by stage name.

    Args:
        precision: one of WEIGHT_BYTES; the bundle need not have it.
        window: patches in a call, cut to T - 1.
        guided: both guidance branches run in the call; the weights are read once for both.

    Raises:
        UsageError: an unknown precision, or a window below 1.
        BundleError: the manifest does not say how many parameters the model has.
    """
    if precision not in WEIGHT_BYTES:
        raise UsageError(f"unknown precision {precision!r}: choose from {', '.join(WEIGHT_BYTES)}")
    if window < 1:
        raise UsageError(f"window {window} is below 1")
    T = manifest.spec.image.num_patches
    count = max(1, min(window, T - 1))
    found = {}
    for block in manifest.spec.ar_blocks:
        weights = network_parameters(manifest, block)
        found[block.name] = _cost(block, weights, T, count, 2 if guided else 1, precision)
    return found


def _cost(
    block: ARBlock, weights: int, T: int, window: int, branches: int, precision: str
) -> CallCost:
    """Windows of W rows start at 0..T-1-W: a row sees T/2 others on average."""
    L, C = block.num_layers, block.channels
    value = CACHE_BYTES.get(precision, 2)
    rows = branches * window
    cached = branches * 2 * L * C * value  # of one patch
    read, written = (T - 1 - window) / 2, window
    return CallCost(
        weight_bytes=weights * WEIGHT_BYTES[precision],
        cache_bytes=cached * (read + written),
        activation_bytes=rows * L * C * ACTIVATIONS_OF_LAYER * value,
        flops=rows * (2.0 * weights + 4 * L * C * T / 2),
    )


def network_parameters(manifest: Manifest, block: ARBlock) -> int:
    """Parameters that a call of the block reads: all but its rows of positions and classes.

    From the model's total; blocks share it by their size, layers * channels^2.

    Raises:
        BundleError: the manifest does not say the total.
    """
    total = manifest.source.num_parameters
    if total is None:
        raise BundleError(
            f"{manifest.name}: the manifest does not say num_parameters, so its cost is unknown: "
            "export the checkpoint again"
        )
    blocks, spec = manifest.spec.ar_blocks, manifest.spec
    tables = sum((spec.image.num_patches + spec.num_classes) * b.channels for b in blocks)
    size = sum(b.num_layers * b.channels**2 for b in blocks)
    return round((total - tables) * block.num_layers * block.channels**2 / size)
