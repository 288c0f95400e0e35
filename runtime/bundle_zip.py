"""A zipped bundle: its entries are checked against its manifest, then unpacked."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .atomic import naming
from .bundle_rules import MAX_MANIFEST_BYTES, check_manifest
from .errors import BundleError
from .litter import is_litter_name
from .locks import private_folder
from .manifest import MANIFEST, Manifest
from .safe_paths import check_distinct, check_relative

# Weights are noise to a compressor (8% smaller at best); the slack is for small all-alike arrays.
_MAX_RATIO, _SLACK_BYTES = 100, 64 << 20
_PIECE_BYTES = 1 << 20
_MAX_LITTER_LENGTH = 1000  # beside longer names no litter is looked for

# What zipfile raises for damaged files; NotImplementedError is a RuntimeError.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error,
    EOFError, RuntimeError, ValueError, OverflowError, LookupError,
)  # fmt: skip

Entries = dict[str, zipfile.ZipInfo]


def is_zip(path: Path) -> bool:
    """Whether a file is a zip of any kind."""
    return zipfile.is_zipfile(path)


def unpack_privately(path: Path, opened: ExitStack) -> Path:
    """Unpack into a new folder that only this user can enter; closing ``opened`` removes it.

    Raises:
        BundleError: as unpack_bundle(), or the folder cannot be written to.
    """
    try:
        folder = opened.enter_context(private_folder())
        unpack_bundle(path, folder)
    except OSError as error:
        if error.filename in (None, str(path)):
            raise
        raise BundleError(
            f"unpacking it stopped at {error.filename}: {error.strerror}: unzip the bundle where "
            "there is room and open the folder, or set TMPDIR"
        ) from error
    return folder


def unpack_bundle(path: Path, folder: Path) -> None:
    """Write the manifest of a zipped bundle and the files it declares into an empty folder.

    The bundle lies at the top of the zip or in its only folder. Nothing is written before every
    entry is checked; entries that the manifest does not declare stay in the zip.

    Raises:
        BundleError: not a zipped bundle, hostile, damaged, or larger than the disk has room for.
    """
    with _zip_errors(), zipfile.ZipFile(path) as archive:
        entries = checked_entries(archive)
        data = _read_manifest(archive, entries)
        manifest = Manifest.decode(data)
        check_manifest(manifest)
        _check_sizes(path, folder, manifest, entries)
        for name, entry in manifest.files.items():
            _extract(archive, entries[name], folder / name, entry.bytes)
        with naming(folder):
            (folder / MANIFEST).write_bytes(data)


@contextmanager
def _zip_errors() -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise BundleError(f"the zip is damaged: {error}") from error


def checked_entries(archive: zipfile.ZipFile) -> Entries:
    """The files of the bundle by their path inside it."""
    # orig_filename is what the zip says; filename is cut at a NUL.
    named = [(_normalise(info.orig_filename), info) for info in archive.infolist()]
    there = {path for name, _ in named for path in _with_folders(name)}
    named = [(name, info) for name, info in named if not is_litter_name(name, there.__contains__)]
    prefix = _find_prefix([name for name, _ in named])
    check_distinct(name for name, _ in named if not name.endswith("/"))
    entries: Entries = {}
    for name, info in named:
        is_folder = name.endswith("/") or not name
        if is_folder and prefix.startswith(name):
            continue
        if not name.startswith(prefix):
            raise BundleError(f"the zip has {name[:80]!r} beside the bundle's folder {prefix!r}")
        inner = name.removeprefix(prefix).removesuffix("/")
        check_relative(inner)
        _check_kind(inner, info)
        if not is_folder:
            entries[inner] = info
    return entries


def _normalise(name: str) -> str:
    """As the zip format wants it: PowerShell 5 and old .NET write backslashes, others ``./``."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part != ".")


def _with_folders(name: str) -> list[str]:
    """The paths that a name makes: of its folders, and of the file."""
    parts = name.split("/") if len(name) <= _MAX_LITTER_LENGTH else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _find_prefix(names: Sequence[str]) -> str:
    """The folder of the manifest with its slash: the top, a top folder, or else the only one."""
    folders = [
        name.removesuffix(MANIFEST)
        for name in names
        if name == MANIFEST or name.endswith(f"/{MANIFEST}")
    ]
    found = [folder for folder in folders if folder.count("/") <= 1] or folders
    if len(found) != 1:
        raise BundleError(
            f"the zip has {len(found) or 'no'} {MANIFEST} at its top or in a folder, expected "
            "exactly one"
        )
    parts = found[0].split("/")[:-1]
    if any(part in ("", "..") or ":" in part for part in parts):
        raise BundleError(f"the zip has {(found[0] + MANIFEST)[:80]!r}, which points out of it")
    return found[0]


def _check_kind(name: str, info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BundleError(f"the zip's {name} is a link or a special file")
    if info.flag_bits & 1:
        raise BundleError(f"the zip's {name} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"the zip's {name} is packed by a method other than deflate")


def _read_manifest(archive: zipfile.ZipFile, entries: Entries) -> bytes:
    info = entries[MANIFEST]
    if info.file_size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST} has {info.file_size:,} bytes, at most {MAX_MANIFEST_BYTES:,} are read"
        )
    with archive.open(info) as file:
        return file.read(MAX_MANIFEST_BYTES)


def _check_sizes(path: Path, folder: Path, manifest: Manifest, entries: Entries) -> None:
    for name, entry in manifest.files.items():
        if name not in entries:
            raise BundleError(f"{name} is missing in the zip")
        if entries[name].file_size != entry.bytes:
            raise BundleError(
                f"the zip's {name} has {entries[name].file_size:,} bytes, expected {entry.bytes:,}"
            )
    total, packed = sum(entry.bytes for entry in manifest.files.values()), path.stat().st_size
    if total > _MAX_RATIO * packed + _SLACK_BYTES:
        raise BundleError(
            f"the zip of {packed:,} bytes claims to unpack to {total:,}, more than "
            f"{_MAX_RATIO} times as much: weights do not compress like that"
        )
    free = shutil.disk_usage(folder).free
    if total > free:
        raise BundleError(
            f"unpacking needs {total:,} bytes in {folder.parent}, which has {free:,} free: unzip "
            "the bundle where there is room and open the folder, or set TMPDIR"
        )


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, num_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), archive.open(info) as source, path.open("xb") as target:
        while piece := source.read(_PIECE_BYTES):  # never gives more than info.file_size
            target.write(piece)
        if target.tell() != num_bytes:
            raise BundleError(f"the zip's {info.filename} ends after {target.tell():,} bytes")
