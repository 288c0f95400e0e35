"""The score step that removes the training noise: x + sigma^2 grad log p(x), Tweedie's formula.

As in the reference's sampling notebook: gradient descent on the mean loss mean(z^2) / 2 - logdet
with the learning rate dims * sigma^2, so the prior counts as standard normal. One vector-Jacobian
graph for each block, chained here in reverse; it runs the network's forward pass once more.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
import numpy.typing as npt

from .encoder import EncodedBlock, encode_blocks, pictures_together
from .errors import NonFiniteError
from .model import Labels, Model, check_finite, to_block_order

Floats = npt.NDArray[np.float32]


def denoise_patches(
    model: Model,
    patches: Floats,
    labels: Labels,
    noise_std: float,
    first_picture: int | None = 0,
) -> Floats:
    """[N, T, D] noisy patches to denoised ones.

    Raises:
        EngineError: the bundle has no vector-Jacobian graphs for this engine and precision.
        NonFiniteError: the gradient is not finite.
    """
    encoded = list(encode_blocks(model, patches, labels, first_picture))
    last = encoded[-1]
    grad = to_block_order(last.z, last.block)  # of sum(z^2) / 2
    for step in reversed(encoded):
        grad = _through_block(model, step, labels, to_block_order(grad, step.block))
        check_finite(grad, step.block, first_picture, "denoising")
        grad = to_block_order(grad, step.block)
    denoised: Floats = patches - np.float32(noise_std**2) * grad
    return denoised


def denoise_others(
    model: Model, patches: Floats, labels: Labels, noise_std: float, failed: dict[int, str]
) -> Floats:
    """The same of all pictures but the failed ones; those that fail here are added to them."""
    found: Floats = patches.copy()
    numbers = [i for i in range(len(patches)) if i not in failed]
    size = pictures_together(model, len(patches))

    def attempt(part: list[int]) -> None:
        try:
            found[part] = denoise_patches(
                model, patches[part], [labels[i] for i in part], noise_std
            )
        except NonFiniteError:
            if len(part) == 1:
                failed[part[0]] = "NaN or infinity while it was denoised"
            else:  # which of them it was
                for i in part:
                    attempt([i])

    for first in range(0, len(numbers), size):
        attempt(numbers[first : first + size])
    return found


def _through_block(model: Model, step: EncodedBlock, labels: Labels, grad_z: Floats) -> Floats:
    """[N, T, D] gradient of the summed loss with respect to the block's input.

    The loss holds + sum(xa) (minus the log-determinant); the parameters of patch t come from the
    network's output at patch t - 1, hence the shift.
    """
    direct = grad_z * np.exp(-step.xa)
    grad_xa, grad_xb = np.zeros_like(step.x), np.zeros_like(step.x)
    grad_xa[:, :-1] = 1 - (grad_z * step.z)[:, 1:]
    grad_xb[:, :-1] = -direct[:, 1:]
    pos, rows = model.pos(step.block), model.class_rows(step.block, labels)[0]
    with closing(model.engine.open_vjp(step.block)) as vjp:
        network = [
            vjp.run(step.x[i], pos + rows[i], grad_xa[i], grad_xb[i]) for i in range(len(step.x))
        ]
    return direct + np.stack(network)
