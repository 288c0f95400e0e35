"""The golden TarFlow checkpoints, and what tests of reading checkpoints do with them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONDITIONAL, GOLDEN, UNCONDITIONAL
from torch import Tensor

from flowship.export.checkpoint import Checkpoint
from flowship.export.options import ConfigOverrides
from flowship.export.synthetic import PRESETS
from flowship.runtime.errors import CheckpointError

State = dict[str, Tensor]

COND = GOLDEN / f"{CONDITIONAL}.pth"
UNCOND = GOLDEN / f"{UNCONDITIONAL}.pth"
QKV = "blocks.1.attn_blocks.0.attention.qkv.weight"
TINY = PRESETS["tarflow-tiny"].config


def save(folder: Path, content: Any, name: str = UNCOND.name, **options: Any) -> Path:
    path = folder / name
    torch.save(content, path, **options)
    return path


def refusal(path: Path, **overrides: Any) -> str:
    """The message with which a checkpoint is refused, at the latest when its weights are read."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path, ConfigOverrides(**overrides)).check_finite()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 320 and path.name in message
    return message


def same_weights(a: Checkpoint, b: Checkpoint, exact: bool = True) -> bool:
    for block in range(a.config.num_blocks):
        one, two = a.block(block), b.block(block)
        pairs = [(one.network[name], two.network[name]) for name in one.network]
        pairs += [(one.pos, two.pos), (one.classes, two.classes), (a.var(), b.var())]
        for x, y in pairs:
            assert x.dtype == y.dtype == np.float32
            if not (np.array_equal(x, y) if exact else np.allclose(x, y, rtol=1e-2, atol=1e-6)):
                return False
    return True


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def zip_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
