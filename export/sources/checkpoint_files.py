"""Which files a checkpoint's path stands for: one, or the parts that an index lists.

Taken: a file; a folder with one (``save_pretrained``); a folder with parts and their index
(``model.safetensors.index.json``, ``pytorch_model.bin.index.json``), its index, or any of its
parts. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.bundle_rules import NOT_IN_NAMES
from ...runtime.errors import CheckpointError
from ...runtime.file_kinds import CHECKPOINT_SUFFIXES, INDEX_SUFFIXES, find_kind
from ...runtime.hashing import sha256_of
from ...runtime.input_paths import why_not
from ...runtime.text import readable

MAX_INDEX_BYTES = 16 << 20  # an index of a thousand layers has 0.2 MB
MAX_PARTS = 1000
_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<suffix>\.\w+)")
# What save_pretrained() calls every model, and a folder whose name says which one it is.
_GENERIC = re.compile(r"model\.safetensors|(diffusion_)?pytorch_model\.(bin|safetensors)")
_TELLING = re.compile(r".+_model_[0-9]+_[0-9]+_[0-9]+_[0-9]+_.+")


@dataclass(frozen=True)
class CheckpointFiles:
    """Attributes:
    name: of the file or folder, which tells sizes and names the bundle.
    label: of messages and of the manifest's source.
    files: one, or all parts, sorted by name.
    parts: the part of each tensor by name; empty where there is one file.
    """

    name: str
    label: str
    files: tuple[Path, ...]
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def sha256(self) -> str:
        """Of the file; of parts what ``sha256sum PARTS | sha256sum`` prints, sorted by name."""
        if not self.parts:
            return sha256_of(self.files[0])
        lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


def without_suffix(file_name: str) -> str:
    """A checkpoint's file name without the suffix of its format."""
    return re.sub(r"(\.(pth|pt|bin|ckpt|safetensors|tar))+$", "", file_name)


def find_files(path: Path) -> CheckpointFiles:
    """Resolve what the user named.

    Raises:
        CheckpointError: nothing that can be read; the message says what it is and the way out.
    """
    if not path.name and not path.is_dir():
        raise CheckpointError("no checkpoint is named: expected a .pth or .safetensors file")
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{readable(str(path))} {_what_is_there(path)}")
    if path.name.endswith(INDEX_SUFFIXES):
        return _of_index(path)
    if (part := _PART.fullmatch(path.name)) and int(part["count"]) > 1:
        return _of_part(path, part)
    _refuse_other(path)
    return _single(path)


def _what_is_there(path: Path) -> str:
    """Of something that is neither a file nor a folder."""
    try:
        path.stat()
    except OSError as error:
        return why_not(path, error)
    return "is not a regular file"


def _single(path: Path) -> CheckpointFiles:
    """One file; what is called ``model.safetensors`` goes by a folder's name that says more."""
    name, folder = readable(path.name), _folder_name(path)
    if _GENERIC.fullmatch(path.name) and _TELLING.fullmatch(folder):
        return CheckpointFiles(folder, f"{folder}/{name}", (path,))
    return CheckpointFiles(name, name, (path,))


def _folder_name(path: Path) -> str:
    return readable(Path(os.path.abspath(path)).parent.name)


def _refuse_other(path: Path) -> None:
    """What is known not to be a checkpoint; what is not known is for the readers."""
    kind = find_kind(path)
    if kind is None or kind.kind == "checkpoint":
        return
    place = readable(str(path))
    if kind.kind == "bundle":
        raise CheckpointError(
            f"{place}: this is {kind.words} already, expected the checkpoint that it comes from "
            f"(flowship inspect {place} names it)"
        )
    if kind.kind == "part":
        raise CheckpointError(f"{place}: expected a checkpoint, this is {kind.words}")
    raise CheckpointError(
        f"{place}: this is {kind.words}, neither a file of torch.save (.pth) nor .safetensors"
    )


# ---- folders -----------------------------------------------------------------------------------


def _of_folder(folder: Path) -> CheckpointFiles:
    place = readable(str(folder))
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{place}: {error.strerror}") from error
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{place}: a folder of torch.distributed.checkpoint (FSDP), which is not read: make "
            "one file of it with python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {place} NAME.pth"
        )
    if "zero_to_fp32.py" in names:
        raise CheckpointError(
            f"{place}: a DeepSpeed checkpoint: make one file of it with its own zero_to_fp32.py"
        )
    if (kind := find_kind(folder)) and kind.kind != "checkpoint":
        _refuse_other(folder)
    for index_suffix in INDEX_SUFFIXES:  # the same weights may be there in both formats
        suffix = f".{index_suffix.split('.')[1]}"
        if found := [name for name in names if name.endswith(index_suffix)]:
            return _of_index(folder / _only(place, found))
        if found := _weight_files(names, suffix):
            return _of_one(folder, found)
    others = [name for name in names if name.lower().endswith(CHECKPOINT_SUFFIXES)]
    if not others:
        raise CheckpointError(f"{place}: a folder without a .safetensors or .pth file")
    return _of_one(folder, others)


def _weight_files(names: list[str], suffix: str) -> list[str]:
    """Other .bin files hold arguments of the training."""
    found = [name for name in names if name.lower().endswith(suffix)]
    return found if suffix != ".bin" else [name for name in found if "pytorch_model" in name]


def _of_one(folder: Path, names: list[str]) -> CheckpointFiles:
    path = folder / _only(readable(str(folder)), names)
    if not path.is_file():
        raise CheckpointError(f"{readable(str(path))}: not a regular file, or a link to nothing")
    found = find_files(path)
    if found.name != readable(path.name) or not _GENERIC.fullmatch(path.name):
        return found
    name = _folder_name(path)  # was named by the user, and says more than "model"
    return CheckpointFiles(name, f"{name}/{found.label}", found.files)


def _only(place: str, names: list[str]) -> str:
    if len(names) > 1:
        shown = ", ".join(map(readable, names[:4])) + ", ..." * (len(names) > 4)
        why = "parts without their index" if all(map(_PART.fullmatch, names)) else "several files"
        way = "add the .index.json" if why.startswith("parts") else "name the one that is meant"
        raise CheckpointError(f"{place}: a folder with {why} ({shown}): {way}")
    return names[0]


# ---- parts -------------------------------------------------------------------------------------


def _of_part(path: Path, part: re.Match[str]) -> CheckpointFiles:
    """The whole set, where the index that lists this part lies beside it."""
    for index in sorted(path.parent.glob("*.index.json")):
        if index.name.endswith(INDEX_SUFFIXES):
            found = _of_index(index)
            if path.name in found.parts.values():
                return found
    raise CheckpointError(
        f"{readable(path.name)}: part {int(part['number'])} of {int(part['count'])} of a "
        f"checkpoint: put all parts and their index ({part['stem']}{part['suffix']}.index.json) "
        "into one folder and name that"
    )


def _of_index(index: Path) -> CheckpointFiles:
    folder = index.parent
    name = _folder_name(index)
    label = f"{name}/{readable(index.name)}"
    parts = _read_index(index, label)
    files = []
    for file in sorted(set(parts.values())):
        if not (folder / file).is_file():
            state = "not a regular file" if os.path.lexists(folder / file) else "missing"
            raise CheckpointError(f"{label}: its part {file} is {state}")
        files.append(folder / file)
    return CheckpointFiles(name, label, tuple(files), parts)


def _read_index(index: Path, label: str) -> dict[str, str]:
    """Tensor names with the file of each, all of them plain names of files beside the index."""
    try:
        with index.open("rb") as file:
            data = file.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{label}: {error.strerror}") from error
    if len(data) > MAX_INDEX_BYTES:
        raise CheckpointError(f"{label}: more than {MAX_INDEX_BYTES:,} bytes, not an index")
    try:
        found = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{label}: damaged, it is not JSON without double keys") from error
    parts = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(parts, dict) or not parts:
        raise CheckpointError(f"{label}: it has no weight_map, which names the part of each tensor")
    for file in parts.values():
        if not isinstance(file, str) or not _is_plain(file):
            raise CheckpointError(
                f"{label}: the part {ascii(file)[:80]} is not the plain name of a .safetensors or "
                ".bin file beside it"
            )
    if len(set(parts.values())) > MAX_PARTS:
        raise CheckpointError(f"{label}: more than {MAX_PARTS} parts")
    return parts


def _is_plain(file: str) -> bool:
    return (
        len(file) <= 255
        and file.isprintable()
        and not set(file) & NOT_IN_NAMES
        and not file.startswith(".")
        and file.endswith(CHECKPOINT_SUFFIXES)
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found
