"""Small torch models through coremltools' own converter, and back through the interpreter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from flowship.runtime.engines.coremltools_import import import_coremltools
from flowship.runtime.engines.mil import Executable, Package

Array = npt.NDArray[Any]

# Every result is rounded to float16 (relative 2^-11 = 4.9e-4), some tens of times in one model.
HALF_ERROR = 3e-3


def coremltools() -> Any:
    return import_coremltools("a test")


@contextmanager
def third_party_noise_off() -> Iterator[None]:
    """Conversion warns about versions and deprecations inside torch and coremltools, and logs."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def trace(module: nn.Module, x: torch.Tensor) -> tuple[Any, list[Array]]:
    """The traced module, and what torch says of x."""
    jit: Any = torch.jit
    with third_party_noise_off(), torch.no_grad():
        results = module.eval()(x)
        traced = jit.trace(module, x)
    results = results if isinstance(results, tuple) else (results,)
    return traced, [result.numpy() for result in results]


def convert(
    traced: Any, x: torch.Tensor, target: str, precision: str = "FLOAT32", **options: Any
) -> Any:
    """An MLModel with the input x; further ``options`` as of ct.convert."""
    ct = coremltools()
    kind = np.int32 if x.dtype == torch.int32 else np.float32
    with third_party_noise_off():
        return ct.convert(
            traced,
            inputs=[ct.TensorType("x", x.shape, dtype=kind)],
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.precision[precision],
            skip_model_load=True,
            **options,
        )


def save(model: Any, path: Path) -> Package:
    with third_party_noise_off():
        model.save(str(path))
    return Package(path)


def run(package: Package, x: torch.Tensor) -> list[Array]:
    """The outputs of the function main, in its order."""
    return list(Executable(package, "main").run({"x": x.numpy()}).values())


def relative_error(found: Array, expected: Array) -> float:
    """Largest difference over the largest value."""
    difference = np.abs(found.astype(np.float64) - expected)
    return float(difference.max() / max(np.abs(expected).max(), 1e-30))


def worst_error(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """Of several outputs, whose shapes must agree."""
    assert [f.shape for f in found] == [e.shape for e in expected]
    return max(relative_error(f, e) for f, e in zip(found, expected, strict=True))
