"""A trained checkpoint: what it is, and its weights as float32, one block or one matrix at a time.

Taken as they are: a bare state_dict, the same inside other dictionaries ({'model': ...}), and the
name parts that wrappers add (``module.``); from ``.pth`` and ``.safetensors`` files, whole or in
parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..runtime.errors import CheckpointError
from ..runtime.file_kinds import LEGACY_MAGIC, ZIP_MAGIC
from ..runtime.manifest import Source, weights_label
from ..runtime.text import readable
from .families.tarflow import (
    BlockWeights,
    Floats,
    TarFlowConfig,
    block_tensor_names,
    block_weights,
    expected_shapes,
    infer_config,
    is_mask,
)
from .lazy import LazyMapping
from .options import ConfigOverrides
from .sources.checkpoint_files import CheckpointFiles, find_files
from .sources.safetensors_file import SafetensorsFile
from .sources.sharded_file import ShardedFile
from .sources.tensor_file import TensorFile, TensorInfo, UnchangedFile
from .sources.torch_file import TorchFile
from .weights_choice import choose_weights

_WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# A larger block is read matrix by matrix. Not all are: each reading of a .pth file maps it anew.
WHOLE_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint. Nothing stays in memory but its names and shapes.

    Attributes:
        files: the file, or its parts.
        config: its hyper-parameters.
        licence: what the user says of the weights' licence.
        file_bytes: size of the files.
        weights: which of several models, by name; None where there is one.
    """

    files: CheckpointFiles
    config: TarFlowConfig
    licence: str | None
    file_bytes: int
    weights: str | None
    _file: TensorFile
    _stored_names: Mapping[str, str]  # by the reference's name

    @classmethod
    def open(
        cls,
        path: str | Path,
        overrides: ConfigOverrides | None = None,
        *,
        licence: str | None = None,
        weights: str | None = None,
    ) -> Checkpoint:
        """Recognise a checkpoint and infer its hyper-parameters; the weights are not read yet.

        Args:
            path: a file, a folder, or the index or a part of a checkpoint in parts.
            weights: which model of a file that holds several, such as ``ema``.

        Raises:
            CheckpointError: not a checkpoint that can be exported; the message says why.
            UsageError: no such weights; the message has those that there are.
        """
        files = find_files(Path(path))
        file = _open_files(files)
        chosen = choose_weights(files.name, file.tensors, weights)
        stored = chosen.stored_names
        tensors = {name: file.tensors[stored[name]] for name in stored}
        file_bytes = files.num_bytes
        _check_tensors(files.name, tensors, file_bytes)
        shapes = {name: info.shape for name, info in tensors.items()}
        config = infer_config(shapes, files.name, overrides or ConfigOverrides())
        return cls(files, config, licence, file_bytes, chosen.name, file, stored)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters."""
        return self.config.num_parameters

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in float32: the parameters and ``var``."""
        return 4 * (self.num_parameters + self.config.num_patches * self.config.patch_dim)

    @cached_property
    def source(self) -> Source:
        """Name, hash and licence of the file. The first use reads it once (1 s for 1 GB)."""
        unchanged = [UnchangedFile(file) for file in self.files.files]
        digest = self.files.sha256()
        for file in unchanged:
            file.check()
        name = weights_label(self.files.label, self.weights)
        return Source(name, digest, self.licence, self.num_parameters)

    def var(self) -> Floats:
        """[T, D] variances of the prior.

        Raises:
            CheckpointError: one of them is not a positive number.
        """
        var = self._array("var")
        if not (var > 0).all():
            raise CheckpointError(
                f"{self.files.name}: var holds {var.min()}, expected only variances above 0"
            )
        return var

    def block(self, block: int) -> BlockWeights:
        """The weights of a block, 0 is next to the image.

        Those of a block of more than WHOLE_BLOCK_BYTES are read from the file whenever they are
        asked for, and checked then; the others are in memory until the last reference to them goes.

        Raises:
            CheckpointError: a weight is NaN or infinite (the message names the tensor).
        """
        names = block_tensor_names(expected_shapes(self.config), block)
        tensors: Mapping[str, Floats] = LazyMapping(names, self._array)
        if 4 * self.config.block_parameters <= WHOLE_BLOCK_BYTES:
            tensors = dict(self._read(names))
        return block_weights(tensors, block)

    def check_finite(self) -> None:
        """Read every weight once.

        Raises:
            CheckpointError: a weight is NaN or infinite (the message names the tensor).
        """
        self.var()
        for block in range(self.config.num_blocks):
            for _ in self.block(block).network.values():
                pass  # reading checks it

    def _array(self, name: str) -> Floats:
        ((_, array),) = self._read([name])
        return array

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Floats]]:
        names_by_stored = {self._stored_names[name]: name for name in names}
        for stored, tensor in self._file.read(names_by_stored):
            name = names_by_stored[stored]
            array: Floats = tensor.to(torch.float32).contiguous().numpy()
            if bad := array.size - int(np.count_nonzero(np.isfinite(array))):
                raise CheckpointError(
                    f"{self.files.name}: {bad} of {array.size} values of {name} are NaN or "
                    "infinite in float32: the training diverged or the file is damaged"
                )
            yield name, array


def _open_files(files: CheckpointFiles) -> TensorFile:
    if not files.parts:
        return _open_file(files.files[0])
    opened = {file.name: _open_file(file) for file in files.files}
    return ShardedFile(files.label, files.parts, opened)


def _open_file(path: Path) -> TensorFile:
    """The reader for a file, by its first bytes; the suffix only matters where they say nothing."""
    name = readable(path.name)
    try:
        with open(path, "rb") as file:
            head = file.read(max(len(LEGACY_MAGIC), 9))
    except OSError as error:
        raise CheckpointError(f"{name}: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{name}: the file is empty")
    if head.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return TorchFile(path)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return SafetensorsFile(path)
    raise CheckpointError(
        f"{name}: neither a file of torch.save (.pth) nor a .safetensors file, it begins with "
        f"{ascii(head[:8])[1:]}"
    )


def _check_tensors(file_name: str, tensors: Mapping[str, TensorInfo], file_bytes: int) -> None:
    """Weights must be floating point, and fit into the file before anything allocates them."""
    weights = {name: info for name, info in tensors.items() if not is_mask(name)}
    for name, info in weights.items():
        if info.dtype not in _WEIGHT_TYPES:
            raise CheckpointError(
                f"{file_name}: {name} has the type {str(info.dtype).removeprefix('torch.')}, "
                "expected float32, float16, bfloat16 or float64: quantized checkpoints cannot be "
                "exported"
            )
    claimed = sum(info.nbytes for info in weights.values())
    if claimed > file_bytes:
        raise CheckpointError(
            f"{file_name}: its tensors claim {claimed} bytes, the file has {file_bytes}"
        )
