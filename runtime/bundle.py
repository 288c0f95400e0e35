"""A bundle on disk: its manifest, and its files with size and hash checked before use."""

from __future__ import annotations

import os
import stat
import weakref
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from .bundle_rules import MAX_MANIFEST_BYTES, check_manifest
from .errors import BundleError
from .hashing import sha256_bytes, sha256_of
from .litter import foreign_files
from .manifest import MANIFEST, Artifact, Manifest
from .safe_paths import check_no_pointer, is_link, regular_file, status_behind, walk_files
from .spec import FlowSpec

Floats = npt.NDArray[np.float32]

EMBEDDED = Path(__file__).parent / "embedded" / "fashion-mnist.flowship"
EMBEDDED_NAME = "embedded"  # names it where a bundle must be named; ./embedded is a file
KEPT_ARRAY_BYTES = 1 << 20  # larger ones are read again each time


class Bundle:
    """An opened bundle.

    Its manifest is checked against itself, and every declared file is there with the right size;
    the hash of a file is checked when its path is first asked for.

    Attributes:
        root: the folder (of a zip: a private temporary copy, removed by close()). Files in it may
            be links, as download caches lay them; folders may not.
        manifest: the whole of manifest.json.
        sha256: hash of manifest.json, the bundle's identity: it holds the hash of every file.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        *,
        sha256: str | None = None,
        temporary: ExitStack | None = None,
    ) -> None:
        """A bundle whose manifest is at hand, perhaps not written yet (open() is for all others).

        Args:
            sha256: of manifest.json; None for the one that would be written.
            temporary: what close() closes, which removes the folder.

        Raises:
            BundleError: the manifest contradicts itself or the files.
        """
        self.root, self.manifest = root.resolve(), manifest
        self.sha256 = sha256 or sha256_bytes(manifest.dumps().encode())
        self._verified: dict[str, Path] = {}
        self._arrays: dict[str, Floats] = {}
        self._laid_out: Path | None = None
        self._temporary = temporary or ExitStack()
        self._remove = weakref.finalize(self, self._temporary.close)
        check_manifest(manifest)
        for name, entry in manifest.files.items():
            regular_file(self.root, name, entry.bytes)

    @staticmethod
    def open(path: str | os.PathLike[str] | None = None) -> Bundle:
        """Open a bundle folder or a zip of one; None or "embedded" the one inside the package.

        Raises:
            BundleError: incomplete, damaged, hostile, too new, or not a bundle at all.
        """
        if path == "":
            raise BundleError("the name of the bundle is empty")
        embedded = path in (None, EMBEDDED_NAME)
        place = EMBEDDED if embedded else Path(path or "")
        try:
            if place.is_dir():
                return _open_folder(place)
            if place.is_file():
                # Imported here: zipfile and tempfile take 15 ms, and most bundles are folders.
                from .bundle_zip import is_zip

                if is_zip(place):
                    return _open_zip(place)
        except BundleError as error:
            raise BundleError(f"{place}: {_other_kind(place) or error}") from error
        except OSError as error:
            raise BundleError(f"{place} cannot be read: {error.strerror or error}") from error
        if embedded:
            raise BundleError(f"this installation has no embedded bundle ({place}): name a bundle")
        if other := _other_kind(place):
            raise BundleError(f"{place}: {other}")
        if not place.exists():
            what = "does not exist"
        elif place.is_file() and _begins_as_zip(place):
            raise BundleError(f"{place} is a zip without its end: copy or download it again")
        else:
            what = "is neither a folder nor a zip"
        raise BundleError(f"{place} {what}: expected a bundle, such as NAME.flowship")

    @property
    def spec(self) -> FlowSpec:
        return self.manifest.spec

    @property
    def nbytes(self) -> int:
        """Bytes of all declared files."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def path(self, relative: str) -> Path:
        """A declared file, after a check of its kind, size and (the first time) hash.

        Of a link it is the file where it ends, which may have any name.

        Raises:
            BundleError: it is undeclared, missing, or not what the manifest says.
        """
        if not self._remove.alive:
            raise BundleError(f"{self.root}: the bundle is closed")
        if relative not in self.manifest.files:
            raise BundleError(f"{self.root}: {relative} is not declared in {MANIFEST}")
        try:
            path = regular_file(self.root, relative, self.manifest.files[relative].bytes)
            if self._verified.get(relative) != path:
                self._verified[relative] = self._verify_file(relative)
        except BundleError as error:
            raise BundleError(f"{self.root}: {error}") from error
        return self._verified[relative]

    def artifact_path(self, artifact: Artifact) -> Path:
        """The file or package folder that an engine opens, after a check of all its files.

        Raises:
            BundleError: as path(), or the package folder holds a file that it does not declare.
        """
        files = {name: self.path(name) for name in artifact.files}
        if set(files) == {artifact.path}:
            return files[artifact.path]
        as_it_lies = all(path == self.root / name for name, path in files.items())
        if artifact.path not in files and not self._is_clean(artifact):
            as_it_lies = False
        return (self.root if as_it_lies else self._lay_out(files)) / artifact.path

    def _is_clean(self, artifact: Artifact) -> bool:
        """Whether a package folder holds nothing but its files; litter makes it unclean.

        Raises:
            BundleError: it holds something that is neither.
        """
        inside = {name.removeprefix(f"{artifact.path}/") for name in artifact.files}
        package = self.root / artifact.path
        for name in foreign_files(package, inside):
            raise BundleError(
                f"{self.root}: {artifact.path} holds {name}, which {MANIFEST} does not "
                "declare: remove it or export the bundle again"
            )
        return inside.issuperset(walk_files(package))

    def _lay_out(self, files: dict[str, Path]) -> Path:
        """A folder with plain files by these names: engines find weights beside a graph by name."""
        # Imported here: tempfile takes 5 ms, and most bundles hold plain files only.
        from .locks import private_folder
        from .plain_files import lay_out

        try:
            if self._laid_out is None:
                self._laid_out = self._temporary.enter_context(private_folder())
            lay_out(files, self._laid_out)
        except OSError as error:
            raise BundleError(
                f"{self.root}: laying out plain files stopped at {error.filename}: "
                f"{error.strerror}: copy the bundle with its links followed (cp -rL), or set TMPDIR"
            ) from error
        return self._laid_out

    def array(self, name: str) -> Floats:
        """A host array by name, read-only.

        Raises:
            BundleError: there is none, or it is damaged or not finite.
        """
        if name in self._arrays and self._remove.alive:
            return self._arrays[name]
        if name not in self.manifest.arrays:
            raise BundleError(f"{self.root}: {MANIFEST} has no array {name!r}")
        entry = self.manifest.arrays[name]
        array = np.fromfile(self.path(entry.path), "<f4").reshape(entry.shape)
        if not np.isfinite(array).all():
            raise BundleError(f"{self.root}: the array {name} holds NaN or infinity")
        array = array.astype(np.float32, copy=False)
        array.flags.writeable = False
        if array.nbytes <= KEPT_ARRAY_BYTES:
            self._arrays[name] = array
        return array

    @property
    def variances(self) -> Floats:
        """[T, D] of the prior, the array ``var``; ones where the latents are standard normal.

        Raises:
            BundleError: as array().
        """
        latent = self.spec.latents[0]
        if latent.prior == "standard_normal":
            return np.ones(latent.shape, np.float32)
        return self.array("var")

    def verify(self) -> list[str]:
        """Hash every file and look for undeclared ones; returns the problems, one line each."""
        problems = []
        for name in self.manifest.files:
            try:
                self._verify_file(name)
            except BundleError as error:
                problems.append(str(error))
        for name in foreign_files(self.root, {*self.manifest.files, MANIFEST}):
            problems.append(f"{name} is not declared in {MANIFEST}")
        return problems

    def close(self) -> None:
        """Remove temporary copies; paths are not given out afterwards."""
        self._remove()

    def _verify_file(self, relative: str) -> Path:
        entry = self.manifest.files[relative]
        path = regular_file(self.root, relative, entry.bytes)
        found = sha256_of(path)
        if found == entry.sha256:
            return path
        # Of what a link points at nothing is told, not even its hash.
        linked = path != self.root / relative
        has = "is a link to another file" if linked else f"has the sha256 {found}"
        raise BundleError(
            f"{relative} {has}, expected {entry.sha256}: it is damaged or was changed, copy or "
            "export the bundle again"
        )

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bundle {self.manifest.name!r} at {self.root}>"


def _other_kind(place: Path) -> str | None:
    from .file_kinds import other_than_bundle  # for mistakes alone

    return other_than_bundle(place)


def _begins_as_zip(place: Path) -> bool:
    from .file_kinds import ZIP_MAGIC

    with place.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def _open_folder(folder: Path, temporary: ExitStack | None = None) -> Bundle:
    data = _read_manifest(folder)
    manifest = Manifest.decode(data)
    return Bundle(folder, manifest, sha256=sha256_bytes(data), temporary=temporary)


def _open_zip(path: Path) -> Bundle:
    from .bundle_zip import unpack_privately

    opened = ExitStack()
    try:
        return _open_folder(unpack_privately(path, opened), temporary=opened)
    except BaseException:
        opened.close()
        raise


def _read_manifest(root: Path) -> bytes:
    path = root / MANIFEST
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise BundleError(
            f"there is no {MANIFEST}: not a bundle, or one whose export did not finish"
        ) from error
    if is_link(status):
        status = status_behind(path, MANIFEST)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{MANIFEST} is not a regular file")
    if status.st_size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST} has {status.st_size:,} bytes, at most {MAX_MANIFEST_BYTES:,} are read"
        )
    check_no_pointer(MANIFEST, path)
    with path.open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES)
