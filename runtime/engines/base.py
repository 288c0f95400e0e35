"""What an engine is: it opens the stages of a bundle and runs their graphs, nothing else.

The host (runtime/*.py, float32 numpy) does the rest: permutation, affine update, guidance, noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..spec import ARBlock
from ..values import whole

if TYPE_CHECKING:
    from ..bundle import Bundle

Floats = npt.NDArray[np.float32]

MAX_THREADS = 256  # of one call; no device profits from more, and thousands exhaust some systems


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself; it is part of a picture's recipe.

    Attributes:
        name, version: for example ``onnx`` and ``onnxruntime 1.32.0``.
        device: for example ``cpu``.
        precision: of the artifacts it runs.
        threads: number of threads of one call.
    """

    name: str
    version: str
    device: str
    precision: str
    threads: int


class ARStage(Protocol):
    """An opened autoregressive block with its KV cache.

    Attributes:
        windows: window lengths it takes in one call; empty means every length from 1 to T.
    """

    windows: tuple[int, ...]

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        """Start a sequence: forget the cache.

        Args:
            pos: [T, C] position rows in the block's own order.
            classes: [branches, N, C] the class row of each guidance branch and picture.
            q_scale: [branches] factor on the queries (1 / attn_temp).
        """

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        """Run the patches position..position+W-1; their cache rows are (over)written.

        Args:
            x: [N, W, D] patches in the block's own order, all finite.
            position: number of patches before them, whose cache rows are valid.

        Returns:
            (xa, xb), each [branches, N, W, D]: affine parameters of the patches
            position+1..position+W. They may be views that the next call overwrites.
        """

    def close(self) -> None:
        """Free the graph and its cache; the stage cannot be used afterwards."""


class VJPStage(Protocol):
    """An opened vector-Jacobian product of a block over the whole sequence."""

    def run(self, x: Floats, context: Floats, grad_xa: Floats, grad_xb: Floats) -> Floats:
        """Gradient of sum(grad_xa * xa + grad_xb * xb) with respect to x.

        Args:
            x: [T, D] patches in the block's own order.
            context: [T, C] position + class rows.
            grad_xa, grad_xb: [T, D] cotangents of the step graph's outputs.

        Returns:
            [T, D] float32.
        """

    def close(self) -> None:
        """Free the graph."""


class Engine(Protocol):
    """Runs the artifacts of one bundle in one precision.

    Attributes:
        info: name, version, device, precision, threads.
    """

    info: EngineInfo

    def max_images(self, branches: int, scaled_queries: bool) -> int | None:
        """Pictures that one stage can run at once, one window of 1 patch each; None: any number.

        A stage for several pictures takes W = 1, or any W at position 0 where ``windows`` is empty.
        """

    def open(
        self,
        stage: ARBlock,
        *,
        num_images: int = 1,
        branches: int = 1,
        scaled_queries: bool = False,
    ) -> ARStage:
        """Open a block for ``num_images`` pictures and 1 or 2 guidance branches.

        Args:
            scaled_queries: some branch has a q_scale other than 1 (needs branches == 2).

        Raises:
            EngineError: this bundle or engine has no graph for it.
        """

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        """Open the denoising graph of a block.

        Raises:
            EngineError: the bundle has none for this engine and precision.
        """

    def close(self) -> None:
        """Free everything that the engine holds."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run.

    Attributes:
        device: in the engine's own words.
        threads: of one call; None for the engine's choice by model size.
        spinning: whether idle threads wait actively: faster on an idle machine, ruinous on a busy
            one (engines without such a choice ignore it).
        packed: whether weights that were packed on this device may stand in for the bundle's own.

    Raises:
        UsageError: no such number of threads.
    """

    precision: str
    device: str = "cpu"
    threads: int | None = None
    spinning: bool = False
    packed: bool = True

    def __post_init__(self) -> None:
        if self.threads is None:
            return
        object.__setattr__(self, "threads", whole(self.threads, "threads"))
        if not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"threads {self.threads} is not between 1 and {MAX_THREADS}")


EngineFactory = Callable[["Bundle", EngineOptions], Engine]
ENGINES: dict[str, EngineFactory] = {}


def register_engine(name: str) -> Callable[[EngineFactory], EngineFactory]:
    """Decorator: make a factory available under ``name``."""

    def add(factory: EngineFactory) -> EngineFactory:
        ENGINES[name] = factory
        return factory

    return add
