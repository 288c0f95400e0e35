"""What a file or folder is, by its content: for messages where something else was expected."""

from __future__ import annotations

import os
import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .manifest import MANIFEST
from .safe_paths import LFS_POINTER
from .text import readable

ZIP_MAGIC = b"PK\x03\x04"
# The first pickle of torch.save before 1.6: protocol 2, a 10-byte integer.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
_JSON, _WEB_PAGE = "a JSON file", "a web page, perhaps in place of a download"
_HEAD_BYTES = 4096
_DEPTH = 5  # of a file in a bundle: coreml/fp16/x.mlpackage/Data/...

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"\x93NUMPY", "a numpy array"),
    (b"GGUF", "a GGUF model"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF file"),
    (LFS_POINTER, "a Git LFS pointer (git lfs pull fetches the file itself)"),
)
_AT = (  # offset, bytes, words
    (4, b"ET1", "an ExecuTorch program"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftyp", "a HEIC or AVIF picture or a film"),
    (257, b"ustar", "a tar archive"),
)


@dataclass(frozen=True)
class FileKind:
    """Attributes:
    kind: what flowship takes it for.
    words: what it is, with an article.
    """

    kind: Literal["bundle", "checkpoint", "part", "other"]
    words: str

    @property
    def is_text(self) -> bool:
        """Whether people could have meant it as text, in whatever encoding."""
        return self.kind == "part" or self.words in (_JSON, _WEB_PAGE)


def find_kind(path: Path) -> FileKind | None:
    """By the first bytes, the directory of a zip or the names in a folder; None: not known.

    Nothing is checked beyond that, and nothing raises: what cannot be read is not known.
    """
    try:
        found = _of_folder(path) if path.is_dir() else _of_file(path) if path.is_file() else None
        if found is None or found.kind == "other":
            around = _bundle_around(path)
            if around is not None:
                manifest = "the manifest" if path.name == MANIFEST else "a file"
                words = found.words if found else "a folder" if path.is_dir() else manifest
                place = readable(str(around))
                return FileKind("part", f"{words}, a part of the bundle {place}: name {place}")
        return found
    except (OSError, ValueError):
        return None


def is_checkpoint(path: Path) -> bool:
    """By content; a file that nothing is known about counts by its suffix."""
    kind = find_kind(path)
    if kind is None:
        return path.is_file() and path.suffix.lower() in CHECKPOINT_SUFFIXES
    return kind.kind == "checkpoint"


def other_than_bundle(path: Path) -> str | None:
    """What stands where a bundle belongs, and what to type; None for a bundle or the unknown."""
    kind = find_kind(path)
    if kind is None and is_checkpoint(path):
        return "this is no bundle; its name is that of a checkpoint, damaged or of another kind"
    if kind is None or kind.kind == "bundle":
        return None
    if kind.kind == "checkpoint":
        return (
            f"this is {kind.words}, not a bundle: export it first with "
            f"flowship export {shlex.quote(readable(str(path)))}"
        )
    if kind.kind == "part":
        return f"this is {kind.words}"
    return f"this is {kind.words}, not a bundle (a folder such as NAME.flowship, or a zip of one)"


def _bundle_around(path: Path) -> Path | None:
    """The bundle that a file or folder lies in, in the user's words as far as they go."""
    typed = list(path.parents)
    for level, parent in enumerate(list(Path(os.path.abspath(path)).parents)[:_DEPTH]):
        manifest = parent / MANIFEST
        if manifest.is_file() and b'"schema_version"' in _head(manifest):
            return typed[level] if level < len(typed) else parent
    return None


def _of_folder(folder: Path) -> FileKind | None:
    names = sorted(os.listdir(folder))
    suffix = folder.suffix.lower()
    if suffix == ".mlpackage" or ("Data" in names and "Manifest.json" in names):
        return FileKind("other", "a Core ML package")
    if suffix == ".mlmodelc":
        return FileKind("other", "a compiled Core ML model")
    if MANIFEST in names:
        return FileKind("bundle", "a bundle")
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return FileKind("checkpoint", "a folder of torch.distributed.checkpoint")
    if any(name.endswith(INDEX_SUFFIXES) for name in names):
        return FileKind("checkpoint", "a checkpoint in parts")
    if any(name.lower().endswith(CHECKPOINT_SUFFIXES) for name in names):
        return FileKind("checkpoint", "a folder with a checkpoint")
    bundles = [name for name in names if (folder / name / MANIFEST).is_file()]
    if bundles:
        return FileKind("other", f"a folder of bundles: {', '.join(bundles[:4])}")
    return None


def _of_file(path: Path) -> FileKind | None:
    head = _head(path)
    if not head:
        return FileKind("other", "an empty file")
    if head.startswith(ZIP_MAGIC):
        return _of_zip(path)
    if head.startswith(LEGACY_MAGIC):
        return FileKind("checkpoint", "a checkpoint (torch.save)")
    if path.name == MANIFEST and b'"schema_version"' in head:
        return None  # its folder is the bundle around it
    if path.name.endswith(INDEX_SUFFIXES) or b'"weight_map"' in head:
        return FileKind("checkpoint", "the index of a checkpoint in parts")
    if head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return FileKind("checkpoint", "a checkpoint (safetensors)")
    return _of_other(path, head)


def _of_other(path: Path, head: bytes) -> FileKind | None:
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return FileKind("other", words)
    for offset, magic, words in _AT:
        if head[offset : offset + len(magic)] == magic:
            return FileKind("other", words)
    if path.suffix.lower() == ".onnx":
        return FileKind("other", "an ONNX graph")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return FileKind("other", _WEB_PAGE)
    if start.startswith((b"{", b"[")):
        return FileKind("other", _JSON)
    return None


def _of_zip(path: Path) -> FileKind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.replace("\\", "/") for name in archive.namelist()]
    except Exception:  # damaged in any way: whoever reads it says how
        return None
    last = {name.rpartition("/")[2] for name in names}
    if MANIFEST in last:
        return FileKind("bundle", "a zipped bundle")
    if "data.pkl" in last:
        if "constants.pkl" in last:
            return FileKind("other", "a TorchScript program (save model.state_dict())")
        return FileKind("checkpoint", "a checkpoint (torch.save)")
    if names and all(name.endswith(".npy") for name in names):
        return FileKind("other", "a numpy archive (.npz)")
    shown = ", ".join(sorted(names)[:3]) or "nothing"
    return FileKind("other", f"a zip of something else ({readable(shown)[:120]!r})")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
