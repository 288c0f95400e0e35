"""A bundle that an export adds to: what of it stays as it is, byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from .. import __version__
from ..runtime.bundle import Bundle
from ..runtime.errors import BundleError, UsageError
from ..runtime.golden_steps import golden_steps_path
from ..runtime.hashing import sha256_of
from ..runtime.manifest import MANIFEST, Artifact, GoldenPicture, Manifest, Quality, Source
from ..runtime.plan import PLAN, PlanFile
from ..runtime.spec import FlowSpec
from .checkpoint import Checkpoint
from .jobs import Job

ANEW = "--replace starts anew"
Row = TypeVar("Row", Artifact, Quality, GoldenPicture)


@dataclass(frozen=True)
class Kept:
    """What stays of the bundle at the output's place.

    Attributes:
        old: the bundle; nothing where there is none, or where nothing of it is kept on purpose.
        jobs: what is exported now, which goes before what the old bundle has.
    """

    old: Bundle | None
    jobs: Sequence[Job]

    @property
    def names(self) -> list[str]:
        """Such as ``onnx fp32``, of what is neither exported now nor lost."""
        if self.old is None:
            return []
        every = self.old.manifest.precisions.items()
        names = [f"{engine} {precision}" for engine, own in every for precision in own]
        return [name for name in names if name not in map(str, self.jobs)]

    @property
    def note(self) -> str | None:
        """What a user should know, in one line."""
        if self.old is None or not self.names:
            return None
        version = self.old.manifest.flowship_version
        made = f", which flowship {version} made" * (version != __version__)
        return f"{', '.join(self.names)} of the bundle stay as they are{made}; {ANEW}"

    def source(self, source: Source) -> Source:
        """With the licence that the bundle states, where nothing else is said."""
        old = self.old.manifest.source.licence if self.old else None
        return source if source.licence else replace(source, licence=old)

    def name(self, default: str) -> str:
        return self.old.manifest.name if self.old else default

    def floors(self) -> dict[str, float]:
        """Rounding noise that was measured, see Profile."""
        if self.old is None or PLAN not in self.old.manifest.files:
            return {}
        profile = PlanFile.loads(self.old.path(PLAN).read_text("utf-8")).profile
        found = profile.floors if profile else {}
        return {name: found[name] for name in self.names if name in found}

    def merged(self, old: Sequence[Row], new: Sequence[Row], stages: Sequence[str]) -> list[Row]:
        """Old rows that stay and new ones: each precision has the place that it had, new ones come
        last, so that the first of an engine, which it takes by itself, stays the first."""
        rows = [row for row in old if _name(row) in self.names] + list(new)
        order = [_name(row) for row in [*old, *new]]
        return sorted(rows, key=lambda row: (_stage(row, stages), order.index(_name(row))))

    def bring(self, root: Path) -> None:
        """Put all files that stay into the new folder; they are checked first.

        Raises:
            UsageError: one of them is damaged.
        """
        for name in self._files():
            assert self.old is not None
            try:
                source = self.old.path(name)
            except BundleError as error:
                raise UsageError(f"{error}; {ANEW}") from error
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target)

    def check_unchanged(self, output: Path) -> None:
        """Another export may have been at it.

        Raises:
            UsageError: the bundle is not what was added to.
        """
        manifest = output / MANIFEST
        found = sha256_of(manifest) if manifest.is_file() else None
        if found != (self.old.sha256 if self.old else None):
            raise UsageError(
                f"{output} was written by another program meanwhile: export again to add to it"
            )

    def _files(self) -> dict[str, None]:
        if self.old is None:
            return {}
        manifest, names = self.old.manifest, self.names
        found = [file for a in manifest.artifacts if _name(a) in names for file in a.files]
        found += [p.path for p in manifest.golden.pictures if _name(p) in names]
        for engine, own in manifest.precisions.items():
            found += [golden_steps_path(engine, p) for p in own if f"{engine} {p}" in names]
            if f"{engine} mixed" in names:
                found.append(f"quality/frontier-{engine}.svg")
        return {file: None for file in found if file in manifest.files}


def find_kept(output: Path, checkpoint: Checkpoint, jobs: Sequence[Job], anew: bool) -> Kept:
    """What of the bundle at ``output`` an export of these jobs leaves alone.

    Raises:
        UsageError: it is a bundle of something else, or damaged.
    """
    if anew or not (output / MANIFEST).exists():
        return Kept(None, jobs)
    try:
        old = Bundle.open(output)
    except BundleError as error:
        raise UsageError(f"{error}: it cannot be added to, {ANEW}") from error
    _check_same(output, old.manifest, checkpoint.source, checkpoint.config.flow_spec())
    return Kept(old, jobs)


def _check_same(output: Path, old: Manifest, source: Source, spec: FlowSpec) -> None:
    if (old.source.sha256, old.source.weights) != (source.sha256, source.weights):
        raise UsageError(
            f"{output} holds other weights ({old.source.file}, sha256 {old.source.sha256[:12]}...; "
            f"this is {source.file}, {source.sha256[:12]}...): choose another name, or {ANEW}"
        )
    if old.spec != spec:
        own = [f.name for f in fields(spec) if getattr(old.spec, f.name) != getattr(spec, f.name)]
        raise UsageError(
            f"{output} was exported from the same file with other settings ({', '.join(own)}): "
            f"say the same --label-names, --noise-std, --in-channels and --head-dim, or {ANEW}"
        )


def _name(row: Artifact | Quality | GoldenPicture) -> str:
    return f"{row.engine} {row.precision}"


def _stage(row: Artifact | Quality | GoldenPicture, stages: Sequence[str]) -> int:
    return stages.index(row.stage) if isinstance(row, Artifact) else 0


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # the old folder's own name for it goes away
    except OSError:
        shutil.copyfile(source, target)
