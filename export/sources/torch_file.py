"""What torch.save writes, read with ``weights_only`` so that no code in it ever runs."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from ...runtime.file_kinds import ZIP_MAGIC
from ...runtime.locks import private_folder
from ...runtime.text import readable
from .plain_values import stand_ins
from .tensor_file import TensorInfo, UnchangedFile, check_tensor_name

MAX_DEPTH = 4  # dictionaries within dictionaries


class TorchFile:
    """A .pth file; nested dictionaries become names with dots, all that is no tensor is left out.

    A zip file (torch 1.6 and later) is mapped, and mapped again for each reading, so that only the
    pages of tensors in use take memory. A file in the older format has to be read whole.

    Raises:
        CheckpointError: truncated, damaged, not written by torch.save, or asking to run code.
    """

    def __init__(self, path: Path) -> None:
        self._file = UnchangedFile(path)
        with open(path, "rb") as file:
            mapped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        if mapped:
            _check_zip(path)
        tensors = self._load(mapped)
        self._whole = None if mapped else tensors
        self.tensors: Mapping[str, TensorInfo] = {
            name: _info(readable(path.name), name, tensor) for name, tensor in tensors.items()
        }

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorFile.read. The tensors of a zip file are views of its private mapping."""
        self._file.check()
        tensors = self._load(True) if self._whole is None else self._whole
        return ((name, tensors[name].detach()) for name in names)

    def _load(self, mapped: bool) -> dict[str, Tensor]:
        path = self._file.path
        try:
            with torch.serialization.safe_globals(stand_ins()), _torch_name(path) as name:
                content = torch.load(name, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # a damaged pickle can fail in every way
            raise _load_error(path, error) from error
        return dict(_flatten(readable(path.name), content))


def _check_zip(path: Path) -> None:
    """The central directory must be there, be torch's, and hold plain (uncompressed) records."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as error:  # BadZipFile, ValueError, NotImplementedError, struct.error, ...
        raise CheckpointError(
            f"{readable(path.name)}: truncated or damaged, the directory at its end is missing"
        ) from error
    names = {record.filename.rpartition("/")[2] for record in records}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{readable(path.name)}: a TorchScript program, not a checkpoint: save "
            "model.state_dict()"
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{readable(path.name)}: a zip file, but not one that torch.save wrote"
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(
            f"{readable(path.name)}: its records are compressed, which torch.save never "
            "does: unpack it"
        )


@contextmanager
def _torch_name(path: Path) -> Iterator[str]:
    """A name that torch can open as its own file.

    Its C++ takes UTF-8 alone, where POSIX has any bytes, and its Python reads what ends in
    ``.safetensors`` as that, whatever it is.
    """
    name = str(path)
    if name.lower().endswith(".safetensors") or not _is_utf8(name):
        with private_folder() as folder:
            link = folder / "checkpoint"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield name


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _load_error(path: Path, error: Exception) -> CheckpointError:
    message, file_name = str(error), readable(path.name)
    if code := re.search(r"GLOBAL (\S+)", message):
        other = path.with_suffix(".pt" if path.suffix == ".pth" else ".pth").name
        return CheckpointError(
            f"{file_name}: refused, its pickle wants to run code ({code[1][:80]!a}). Weights alone "
            "are safe: save them in the program that has the model, with "
            f"import torch; torch.save(model.state_dict(), {other!a})"
        )
    # torch's advice in an UnpicklingError is to switch the protection off: not repeated here.
    reason = "" if isinstance(error, pickle.UnpicklingError) else message.strip().split("\n")[0]
    detail = f"{type(error).__name__}: {reason[:100]!a}" if reason else type(error).__name__
    return CheckpointError(f"{file_name}: truncated or damaged, torch.load fails ({detail})")


def _flatten(file_name: str, content: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries; each dictionary once, however often it is referred to."""
    level, seen = [("", content)], set()
    for _ in range(MAX_DEPTH):
        below = []
        for prefix, item in level:
            if not isinstance(item, dict) or id(item) in seen:
                continue
            seen.add(id(item))
            for key, value in item.items():
                if not isinstance(key, str):  # numbered entries of an optimizer
                    continue
                if isinstance(value, Tensor):
                    check_tensor_name(file_name, prefix + key)
                    yield prefix + key, value
                else:
                    below.append((f"{prefix}{key}.", value))
        level = below


def _info(file_name: str, name: str, tensor: Tensor) -> TensorInfo:
    info = TensorInfo(tensor.dtype, tuple(tensor.shape))
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(f"{file_name}: {name} is not a plain tensor with values")
    stored = tensor.untyped_storage().nbytes()
    if info.nbytes > stored:  # a stride of 0 makes terabytes out of 4 bytes
        raise CheckpointError(
            f"{file_name}: {name} claims {info.nbytes} bytes, the file holds {stored} for it"
        )
    return info
