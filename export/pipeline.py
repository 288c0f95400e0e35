"""A trained checkpoint to a verified bundle: convert, compare with the trained model, and only then
give it its name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..runtime.atomic import atomic_file, atomic_folder
from ..runtime.bundle import Bundle
from ..runtime.bundle_rules import usable_name
from ..runtime.convergence import measure_floor, measure_profile
from ..runtime.engines import EngineOptions, find_engine
from ..runtime.engines.base import Engine
from ..runtime.errors import ParityError, UsageError
from ..runtime.golden_steps import STEPS_LIMIT, write_golden_steps
from ..runtime.hashing import sha256_of
from ..runtime.likelihood import few_pictures
from ..runtime.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    ArrayEntry,
    Artifact,
    FileEntry,
    GoldenPicture,
    Manifest,
    Quality,
)
from ..runtime.model import Model
from ..runtime.plan import PLAN, PlanFile
from ..runtime.progress import ProgressLine
from ..runtime.spec import ARBlock
from ..runtime.table import format_bytes, format_number
from .checkpoint import Checkpoint
from .families.tarflow import BlockWeights
from .jobs import Job, check_jobs, make_jobs
from .kept import Kept, Row, find_kept
from .mixture import Mixture, MixtureSearch, check_size, uniform_formats
from .options import Method, SearchLimit
from .parity import SPOT_PATCHES, BlockError, check_block, refuse_if_bad
from .peak import add_peak_memory
from .profile import PROFILE_PRECISION, profiling_bundle
from .quality import NUM_DATA, Judge, golden_noise, make_golden_pictures
from .quantize.block_quantizer import BlockQuantizer
from .quantize.data import MAX_PICTURES, PictureSet, read_pictures
from .quantize.frontier_plot import frontier_svg
from .quantize.search import SizeError
from .quantize.sensitivity import costliest
from .reference import LayeredReference
from .request import ExportRequest
from .sources.checkpoint_files import without_suffix
from .targets import checking_engine
from .targets.onnx import HEAD_UNIT

Floats = npt.NDArray[np.float32]

# Whole images are compared where torch makes one in a second; larger models get spot checks.
# Multiplications of a picture: parameters times patches.
FULL_CHECK_CALLS, FULL_CHECK_MULTIPLICATIONS = 4096, 8_000_000_000


@dataclass(frozen=True)
class Report:
    """What an export did.

    Attributes:
        manifest: of the bundle.
        kept: what was in the bundle before and stays, such as ``onnx fp32``.
        mixtures: what was searched, by engine; ``frontiers`` are pictures of it (SVG).
    """

    manifest: Manifest
    kept: tuple[str, ...]
    mixtures: Mapping[str, Mixture]
    frontiers: Mapping[str, str]


def export_checkpoint(
    checkpoint: Path, output: Path, request: ExportRequest, progress: ProgressLine
) -> Manifest:
    """Export ``checkpoint`` to the bundle folder ``output``, which appears only when all is good.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ParityError: an artifact misses its threshold; nothing is written.
        UsageError: a wrong choice, or ``output`` exists and is not a bundle.
    """
    return run_export(checkpoint, output, request, progress).manifest


def run_export(
    checkpoint: Path, output: Path, request: ExportRequest, progress: ProgressLine
) -> Report:
    """The same, and what the search found on the way.

    A search keeps its measurements in ``NAME.flowship.search.jsonl`` beside the output until the
    export has succeeded, and goes on from there.
    """
    choices, notes = request.choices()
    jobs = make_jobs(choices)
    for note in notes:
        progress.note(note)
    opened = Checkpoint.open(
        checkpoint, request.overrides, licence=request.licence, weights=request.weights
    )
    store = output.with_name(f"{output.name}.search.jsonl")
    with atomic_folder(output) as root:
        kept = find_kept(output, opened, jobs, request.replace)
        kept.bring(root)
        if kept.note:
            progress.note(kept.note)
        report = _Export(opened, root, kept, jobs, request, progress, store).run()
        if not request.replace:
            kept.check_unchanged(output)
    if plot := request.plot:
        for engine, svg in report.frontiers.items():
            several = len(report.frontiers) > 1
            own = plot.with_stem(f"{plot.stem}-{engine}") if several else plot
            with atomic_file(own) as file:
                file.write(svg.encode())
    store.unlink(missing_ok=True)
    return report


class _Export:
    def __init__(
        self,
        checkpoint: Checkpoint,
        root: Path,
        kept: Kept,
        jobs: list[Job],
        request: ExportRequest,
        progress: ProgressLine,
        store: Path,
    ) -> None:
        self.checkpoint, self.root, self.kept, self.jobs = checkpoint, root, kept, jobs
        self.request, self.progress = request, progress
        self.config, self.spec = checkpoint.config, checkpoint.config.flow_spec()
        calls = self.config.num_blocks * self.config.num_patches
        multiplications = checkpoint.num_parameters * self.config.num_patches
        self.whole = calls <= FULL_CHECK_CALLS and multiplications <= FULL_CHECK_MULTIPLICATIONS
        # Shares of the time. Gradients of long sequences are nearly all of a spot check.
        self.converting, self.checking = (0.6, 0.2) if self.whole else (0.15, 0.85)
        self.method: Method = request.method_for(self.whole)
        check_jobs(jobs, self.config, request.options)
        if request.max_size is not None:
            mixed = [job.target for job in jobs if job.precision == "mixed"]
            check_size(mixed, self.config, request.options, request.max_size)
        steering, self.judging = self._read_pictures()
        self.quantizer = BlockQuantizer(checkpoint, self.method, steering, keep=self.whole)
        self.search = MixtureSearch(checkpoint, steering, self.method, store)
        self.mixtures: dict[str, Mixture] = {}

    def run(self) -> Report:
        self._search()
        arrays = self._write_arrays()
        artifacts = self._fit_size(self._convert(self.jobs))
        for engine, svg in self._frontiers().items():
            path = self.root / "quality" / f"frontier-{engine}.svg"
            path.parent.mkdir(exist_ok=True)
            path.write_text(svg, "utf-8")
        (self.root / PLAN).write_text(PlanFile().dumps(), "utf-8")
        old = self.kept.old.manifest if self.kept.old else None
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            flowship_version=__version__,
            name=self.request.name or self.kept.name(self._default_name),
            spec=self.spec,
            source=self.kept.source(self.checkpoint.source),
            arrays=arrays,
            files=dict(self._hash_files()),
            artifacts=self._with_kept(old.artifacts if old else (), artifacts),
            quality=(),
            golden=golden_noise(self.spec),
        )
        bundle = Bundle(self.root, manifest)
        errors = self._check_blocks(bundle)
        judged = list(self._judge(bundle, errors))
        quality = self._with_kept(old.quality if old else (), judged)
        manifest = replace(manifest, quality=quality)
        if self.whole:
            self._write_profile(bundle)
            manifest = self._add_golden_pictures(manifest, old.golden.pictures if old else ())
        manifest = self._add_golden_steps(manifest)
        patches = None if self.whole else self._patches_checked
        manifest = add_peak_memory(manifest, self.root, patches, self.progress)
        (self.root / MANIFEST).write_text(manifest.dumps(), "utf-8")
        self.progress.clear()
        return Report(manifest, tuple(self.kept.names), self.mixtures, self._frontiers())

    @property
    def _default_name(self) -> str:
        return usable_name(without_suffix(self.checkpoint.files.name))

    def _with_kept(self, old: Sequence[Row], new: Sequence[Row]) -> tuple[Row, ...]:
        stages = [stage.name for stage in self.spec.ar_blocks]
        return tuple(self.kept.merged(old, new, stages))

    # -- quantize ----------------------------------------------------------------------------------

    def _read_pictures(self) -> tuple[PictureSet, PictureSet | None]:
        """Those that steer quantization and, apart from them, those that judge (None: any)."""
        request, quantized = self.request, any(job.is_quantized for job in self.jobs)
        mixed = any(job.precision == "mixed" for job in self.jobs)
        if request.max_bpd_increase is not None and not self.whole:
            raise UsageError(
                f"--max-bpd-increase: a model of {self.checkpoint.num_parameters:,} parameters is "
                "checked block by block only, without a likelihood: leave it out, or take "
                "--max-size"
            )
        int8_cache = any(self._has_int8_cache(job) for job in self.jobs)
        steered = mixed or self.method == "gptq" or int8_cache
        if not quantized or not (self.whole or steered):
            data = request.data if self.whole else None
            judging = read_pictures(self.checkpoint, data, limit=NUM_DATA) if data else None
            return _NO_PICTURES, judging
        if not self.whole and request.data is None:
            raise UsageError(
                f"{'mixed' if mixed else 'gptq' if self.method == 'gptq' else 'an int8 KV cache'}: "
                f"a model of {self.checkpoint.num_parameters:,} parameters takes too long to make "
                "pictures of its own: say --data"
            )
        self.progress.update(0.0, "reading pictures" if request.data else "making pictures")
        return read_pictures(self.checkpoint, request.data, limit=MAX_PICTURES).halves()

    def _search(self) -> None:
        targets = [job.target for job in self.jobs if job.precision == "mixed"]
        if not targets:
            return
        limit = self.request.limit
        assert limit is not None
        self.mixtures |= self.search.run(targets, self.request.options, limit, self._tell_search)

    def _frontiers(self) -> dict[str, str]:
        """An SVG of each search, by engine."""
        limit = self.request.max_bpd_increase
        return {
            engine: frontier_svg(
                f"{self.checkpoint.source.file}, {engine}", mixture.found.points, limit
            )
            for engine, mixture in self.mixtures.items()
        }

    def _tell_search(self, fraction: float, words: str) -> None:
        self.progress.update(fraction, f"searching: {words}")

    def _formats(self, job: Job, stage: ARBlock) -> Mapping[str, str]:
        """Formats of a block's matrices; none where they stay float."""
        if job.precision == "mixed":
            return self.mixtures[job.target.engine].found.formats.get(stage.block, {})
        return uniform_formats(job.target, job.precision, stage)

    def _weights(self, job: Job, stage: ARBlock, trained: BlockWeights) -> BlockWeights:
        formats = self._formats(job, stage)
        weights = self.quantizer.quantize(stage, trained, formats) if formats else trained
        if self._has_int8_cache(job):
            weights = self.quantizer.with_cache_scales(stage, weights)
        return weights

    def _has_int8_cache(self, job: Job) -> bool:
        wanted = self.request.options.onnx_kv_cache == "int8"
        return wanted and job.target.engine == "onnx" and job.is_quantized

    # -- convert -----------------------------------------------------------------------------------

    def _write_arrays(self) -> dict[str, ArrayEntry]:
        arrays = {"var": self._write_array("var", self.checkpoint.var())}
        for stage in self.spec.ar_blocks:
            weights = self.checkpoint.block(stage.block)
            for name, array in (("pos", weights.pos), ("classes", weights.classes)):
                arrays[f"{stage.name}.{name}"] = self._write_array(f"{stage.name}.{name}", array)
        return arrays

    def _convert(self, jobs: Sequence[Job]) -> list[Artifact]:
        artifacts: list[Artifact] = []
        costs = [job.target.first_block_cost for job in jobs]
        total = sum(costs) + len(jobs) * (len(self.spec.ar_blocks) - 1)
        done = 0.0
        for number, stage in enumerate(self.spec.ar_blocks):
            weights = self.checkpoint.block(stage.block)
            for job, first in zip(jobs, costs, strict=True):
                fraction = self.converting * done / total
                self.progress.update(fraction, f"converting {stage.name} to {job}")
                options, precision = self.request.options, job.precision
                own = self._weights(job, stage, weights)
                artifacts += job.target.export_block(
                    self.root, self.config, stage, own, precision, options
                )
                del own
                done += 1 if number else first
            del weights  # before the next block is read
        return artifacts

    def _fit_size(self, artifacts: list[Artifact]) -> list[Artifact]:
        """Search again with less where a mixture is too large with its graphs, which are known now.

        Raises:
            UsageError: no mixture is small enough.
        """
        limit = self.request.max_size
        for job in self.jobs if limit is not None else ():
            assert limit is not None
            wanted = limit
            while job.precision == "mixed" and (excess := self._nbytes(artifacts, job) - limit) > 0:
                wanted -= excess
                try:
                    self.mixtures |= self.search.run(
                        [job.target],
                        self.request.options,
                        SearchLimit(None, wanted),
                        self._tell_search,
                    )
                except SizeError as error:
                    least = format_bytes(error.least_bytes + limit - wanted)
                    raise UsageError(
                        f"--max-size of {format_bytes(limit)}: the smallest mixture for "
                        f"{job.target.engine} takes about {least} with its graphs"
                    ) from error
                artifacts = [a for a in artifacts if not job.made(a)]
                shutil.rmtree(self.root / job.target.engine / job.precision)
                artifacts += self._convert([job])
        return artifacts

    def _nbytes(self, artifacts: Sequence[Artifact], job: Job) -> int:
        """Of all files of a job, packages with everything in them."""
        paths = {self.root / file for a in artifacts if job.made(a) for file in a.files}
        return sum(path.stat().st_size for path in paths)

    def _write_array(self, name: str, array: Floats) -> ArrayEntry:
        path = f"arrays/{name}.f32"
        (self.root / "arrays").mkdir(exist_ok=True)
        (self.root / path).write_bytes(np.ascontiguousarray(array, "<f4").tobytes())
        return ArrayEntry(path, array.shape)

    def _hash_files(self) -> Iterator[tuple[str, FileEntry]]:
        for path in sorted(p for p in self.root.rglob("*") if p.is_file()):
            if path.name.startswith("."):
                continue
            relative = path.relative_to(self.root).as_posix()
            yield relative, self._file_entry(relative)

    def _file_entry(self, relative: str) -> FileEntry:
        path = self.root / relative
        return FileEntry(path.stat().st_size, sha256_of(path))

    # -- check -------------------------------------------------------------------------------------

    def _open_engine(self, bundle: Bundle, job: Job) -> Engine:
        name = checking_engine(job.target.engine)
        return find_engine(name)(bundle, EngineOptions(job.precision, packed=False))

    def _has_denoise(self, bundle: Bundle, job: Job) -> bool:
        stage = self.spec.ar_blocks[0].name
        return bool(bundle.manifest.find(job.target.engine, job.precision, "vjp", stage))

    def _check_blocks(self, bundle: Bundle) -> dict[Job, BlockError]:
        """The worst of each job's blocks; raises ParityError."""
        worst: dict[Job, BlockError] = {}
        total, done = len(self.jobs) * len(self.spec.ar_blocks), 0
        for stage in self.spec.ar_blocks:
            trained = self.checkpoint.block(stage.block)
            for job in self.jobs:
                fraction = self.converting + self.checking * done / total
                self.progress.update(fraction, f"checking {stage.name}, {job}")
                own = self._weights(job, stage, trained)
                # Engines of its own for each block: closing them frees it before the next.
                found = check_block(
                    partial(self._open_engine, bundle, job),
                    LayeredReference(self.config, stage, own),
                    patches=self._patches_checked,
                    at_once=self.whole or stage == self.spec.ar_blocks[0],
                    denoise=self._has_denoise(bundle, job),
                    seed=stage.block,
                )
                refuse_if_bad(f"{job}, {stage.name}", job.target.engine, job.precision, found)
                worst[job] = found.worst(worst.get(job, found))
                done += 1
                del own
            del trained  # before the next block is read
        return {job: worst[job] for job in self.jobs}

    def _judge(self, bundle: Bundle, errors: dict[Job, BlockError]) -> Iterator[Quality]:
        judge = Judge(self.checkpoint, self.judging) if self.whole else None
        for i, (job, error) in enumerate(errors.items()):
            quality = Quality(
                engine=job.target.engine,
                precision=job.precision,
                checked_with=error.checked_with,
                check="full" if self.whole else "spot",
                inputs=self._describe_inputs(bundle, job),
                max_abs_error=error.max_abs_error,
                relative_error=error.relative_error,
                rms_error=error.rms_error,
                nbytes=self._nbytes(bundle.manifest.artifacts, job),
                method=self._method_words(job) if job.is_quantized else None,
                formats=self._formats_by_stage(job) if job.precision == "mixed" else None,
            )
            if judge:
                fraction = self.converting + self.checking + 0.1 * i / len(errors)
                self.progress.update(fraction, f"decoding pictures, {job}")
                with closing(self._open_engine(bundle, job)) as engine:
                    quality = judge.judge(bundle, engine, quality)
                self._refuse_unlikely(job, quality.bits_per_dim_change or 0.0, len(judge.pictures))
            yield quality

    def _method_words(self, job: Job) -> str:
        words = self.method if self.method == "rtn" else f"{self.method} on {self.quantizer.words}"
        if self._has_int8_cache(job):
            words += f"; KV cache in int8, scales from {self.quantizer.cache_words}"
        return words

    def _formats_by_stage(self, job: Job) -> dict[str, dict[str, str]]:
        return {stage.name: dict(self._formats(job, stage)) for stage in self.spec.ar_blocks}

    def _refuse_unlikely(self, job: Job, change: float, count: int) -> None:
        limit = self.request.max_bpd_increase
        if limit is None or not job.is_quantized or change <= limit:
            return
        self.progress.update(0.9, f"looking for the costliest matrix of {job}")
        formats = {s.block: self._formats(job, s) for s in self.spec.ar_blocks}
        names = {name for own in formats.values() for name in own.values()}
        worst = costliest(self.search.measure(sorted(names), None), formats)
        where = f": block{worst.block} {worst.matrix} in {worst.format} costs most" if worst else ""
        raise ParityError(
            f"{job}: {format_number(change, '+.5f')} bits/dim against float32 on {count} pictures"
            f"{few_pictures(count)}, the limit is {limit:g}{where}; take more bits or mixed"
        )

    @property
    def _patches_checked(self) -> int:
        """How many patches of each block go through windows of every length."""
        return min(self.config.num_patches, self.config.num_patches if self.whole else SPOT_PATCHES)

    def _describe_inputs(self, bundle: Bundle, job: Job) -> str:
        T, first = self.config.num_patches, self.spec.ar_blocks[0].name
        engine, precision = job.target.engine, job.precision
        static = bundle.manifest.find(engine, precision, "step", first)[0].windows
        together = "a chain of windows" if static else f"one call (W = T = {T})"
        words = "standard normal patches, "
        if self.whole:
            words += f"every patch of every block in windows and in {together}"
        else:
            words += f"the first {self._patches_checked} of every block in windows, all {T} of "
            words += f"{first} in {together}"
        if self._has_denoise(bundle, job):
            words += "; denoising gradient of every block over all patches"
        return f"{words}; PSNR of decoded images" if self.whole else words

    def _write_profile(self, bundle: Bundle) -> None:
        """Measure convergence in float32, whatever is exported, and the rounding of all that is."""
        floors = self.kept.floors()
        for job in self.jobs:
            with closing(self._open_engine(bundle, job)) as engine:
                floors[str(job)] = measure_floor(Model(bundle, engine))
        if self.config.head_dim % HEAD_UNIT:  # no engine runs any window of it in float32
            return
        with profiling_bundle(bundle, self.checkpoint) as profiled:
            options = EngineOptions(PROFILE_PRECISION, packed=False)
            with closing(find_engine("onnx")(profiled, options)) as engine:
                profile = measure_profile(Model(profiled, engine), floors, self._tell_profile)
        (self.root / PLAN).write_text(PlanFile(profile=profile).dumps(), "utf-8")

    def _tell_profile(self, fraction: float) -> None:
        self.progress.update(0.9 + 0.08 * fraction, "measuring convergence in windows")

    def _add_golden_steps(self, manifest: Manifest) -> Manifest:
        """Affine parameters for verify, of those engines that have a measured limit for them."""
        bundle, paths = Bundle(self.root, manifest), []
        for job in self.jobs:
            if checking_engine(job.target.engine) not in STEPS_LIMIT:
                continue
            self.progress.update(0.99, f"golden parameters, {job}")
            with closing(self._open_engine(bundle, job)) as engine:
                made_for = job.target.engine
                paths.append(write_golden_steps(bundle, engine, self.root, made_for))
        return replace(manifest, files=manifest.files | {p: self._file_entry(p) for p in paths})

    def _add_golden_pictures(self, manifest: Manifest, old: tuple[GoldenPicture, ...]) -> Manifest:
        files = manifest.files | {PLAN: self._file_entry(PLAN)}
        bundle = Bundle(self.root, replace(manifest, files=files))
        pictures: list[GoldenPicture] = []
        for job in self.jobs:
            self.progress.update(0.99, f"golden pictures, {job}")
            with closing(self._open_engine(bundle, job)) as engine:
                pictures += make_golden_pictures(bundle, engine, self.root, job.target.engine)
        golden = replace(manifest.golden, pictures=self._with_kept(old, pictures))
        changed = [PLAN, *(picture.path for picture in pictures)]
        files = manifest.files | {path: self._file_entry(path) for path in changed}
        return replace(manifest, golden=golden, files=files)


_NO_PICTURES = PictureSet(np.empty((0, 0, 0), np.float32), (), "none")
