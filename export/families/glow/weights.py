"""The arrays that GLOW's graphs read, folded step by step, with one step in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ....runtime.errors import CheckpointError
from .emit import prior_shape
from .model import Conv, Doubles, FixedPrior, GlowModel

Floats = npt.NDArray[np.float32]


def weight_arrays(model: GlowModel) -> Iterator[tuple[str, Floats]]:
    """Every array that the graphs read, by name, with one step in memory at a time.

    Raises:
        CheckpointError: a step cannot be inverted, or a weight is beyond float32.
    """
    for i, level in enumerate(model.config.levels):
        for k in range(len(level.steps)):
            yield from step_arrays(model, i, k).items()
        yield from prior_arrays(model, i).items()


def step_arrays(model: GlowModel, level: int, step: int) -> dict[str, Floats]:
    """Those of one step; see weight_arrays."""
    prefix = f"level{level}.step{step}."
    with np.errstate(all="ignore"):  # what overflows is found by its values
        mixing = model.reader.mixing(level, step)
        model.log_abs_det(level, step, mixing)  # raises where there is no inverse
        inverse: Doubles = np.linalg.inv(mixing.C).astype(np.float64)
        found: dict[str, Doubles] = {
            f"{prefix}mix.weight": mixing.C[:, :, None, None],
            f"{prefix}mix.bias": mixing.c,
            f"{prefix}unmix.weight": inverse[:, :, None, None],
            f"{prefix}unmix.bias": -inverse @ mixing.c,
        }
        for number, conv in enumerate(model.reader.network(level, step), 1):
            found |= _conv_arrays(f"{prefix}conv{number}.", conv)
        return _in_float32(model, found)


def prior_arrays(model: GlowModel, level: int) -> dict[str, Floats]:
    """Those of a level's prior; see weight_arrays."""
    prefix, kind = f"level{level}.prior.", model.config.levels[level].prior.kind
    if kind == "standard":
        return {}
    with np.errstate(all="ignore"):
        prior = model.reader.prior(level)
        if isinstance(prior, Conv):
            return _in_float32(model, _conv_arrays(prefix, prior))
        if kind == "classes":
            return _in_float32(model, {f"{prefix}table": _table(model, level, prior)})
        std: Doubles = np.exp(prior.log_std)
        inverse_std: Doubles = np.exp(-prior.log_std)
        found = {"mean": prior.mean, "std": std, "inverse_std": inverse_std}
        return _in_float32(model, {f"{prefix}{name}": array for name, array in found.items()})


def _table(model: GlowModel, level: int, prior: FixedPrior) -> Doubles:
    """[m and q of all places, classes]."""
    shape = (model.config.num_classes, *prior_shape(model.config, level))
    both = [np.broadcast_to(values, shape) for values in (prior.mean, prior.log_std)]
    table: Doubles = np.concatenate(both, 1).reshape(shape[0], -1).T
    return table


def _conv_arrays(prefix: str, conv: Conv) -> dict[str, Doubles]:
    return {f"{prefix}weight": conv.weight, f"{prefix}bias": conv.bias}


def _in_float32(model: GlowModel, arrays: dict[str, Doubles]) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for name, array in arrays.items():
        # A copy of its own: numpy calls a stride of 0 on a length of 1 contiguous, torch keeps it
        # and ExecuTorch refuses it.
        found[name] = np.array(array, np.float32, order="C")
        if not np.isfinite(found[name]).all():
            raise CheckpointError(
                f"{model.file_name}: {name} is beyond the range of float32 after folding: the "
                "training diverged"
            )
    return found
