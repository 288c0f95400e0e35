"""How right the picture of a case is: against float32, in this run or as its export measured it."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from statistics import median

from ..runtime.extras import is_installed
from ..runtime.hashing import sha256_bytes
from ..runtime.images import max_abs_error, psnr_db, to_uint8
from ..runtime.manifest import Quality
from ..runtime.opening import made_for
from .contender import BundlePath, Floats, FlowContender, Subject, picture_of
from .grid import Case
from .row import EQUAL_DB, Row
from .trust import is_wrong, psnr_floor
from .turns import Job

OTHER_PICTURES = 4  # made where a picture looks wrong


def with_accuracy(job: Job, path: BundlePath, case: Case, subject: Subject) -> Row:
    """Hash, error against float32 sequential made in this run, and the change of bits/dim."""
    contender, row = job.contender, job.row
    assert isinstance(contender, FlowContender) and job.output is not None
    images = picture_of(job.output, contender)
    row = replace(row, output_sha256=sha256_bytes(to_uint8(images)[0].tobytes()))
    quality = _quality(contender)
    sequential = _reference(case, contender)
    if sequential is None:
        if quality is None:
            return replace(row, notes=(*row.notes, "no float32 to compare the picture with"))
        return replace(
            row,
            psnr_db=quality.psnr_db,
            max_abs_error=quality.image_max_abs_error,
            bits_per_dim_change=quality.bits_per_dim_change,
            accuracy_source=f"the manifest, measured when exported on {quality.inputs}",
        )
    with_engine = f"{sequential.engine} fp32, one patch a call, in this run"
    reference = FlowContender(path, sequential, subject)
    try:
        wanted = picture_of(reference.run(), reference)
        error = max_abs_error(images, wanted)
        row = replace(
            row,
            psnr_db=_psnr(images, wanted),
            psnr_floor_db=psnr_floor(row.precision, quality.psnr_db_median if quality else None),
            max_abs_error=error if isfinite(error) else None,
            accuracy_source=f"picture against {with_engine}",
        )
        if is_wrong(row):
            others = _other_psnrs(path, (case, sequential), subject)
            row = replace(row, psnr_median_db=median([row.psnr_db or 0.0, *others]))
        return _with_bits(row, contender, reference, wanted, quality)
    finally:
        reference.close()


def _psnr(images: Floats, wanted: Floats) -> float:
    return max(-EQUAL_DB, min(EQUAL_DB, psnr_db(images, wanted)))


def _other_psnrs(path: BundlePath, pair: tuple[Case, Case], subject: Subject) -> list[float]:
    """PSNR between two cases on the pictures of the next seeds."""
    found = []
    for seed in range(subject.seed + 1, subject.seed + 1 + OTHER_PICTURES):
        made = []
        for case in pair:
            contender = FlowContender(path, case, replace(subject, seed=seed))
            try:
                made.append(picture_of(contender.run(), contender))
            finally:
                contender.close()
        found.append(_psnr(*made))
    return found


def _with_bits(
    row: Row,
    contender: FlowContender,
    reference: FlowContender,
    picture: Floats,
    quality: Quality | None,
) -> Row:
    """The manifest's change on real pictures; where it has none, the change on this picture."""
    if quality is not None and quality.bits_per_dim_change is not None:
        source = f"change of bits/dim from the manifest ({quality.bits_per_dim_inputs})"
        change: float | None = quality.bits_per_dim_change
    elif contender.patches is None:
        source = "change of bits/dim on the float32 picture, in this run"
        found = [c.flow.log_likelihood(picture, label=c.label) for c in (contender, reference)]
        change = float(found[0].bits_per_dim[0] - found[1].bits_per_dim[0])
    else:
        return row
    return replace(
        row, bits_per_dim_change=change, accuracy_source=f"{row.accuracy_source}; {source}"
    )


def _quality(contender: FlowContender) -> Quality | None:
    info = contender.flow.engine.info
    for quality in contender.flow.bundle.manifest.quality:
        if (quality.engine, quality.precision) == (made_for(info.name), info.precision):
            return quality
    return None


def _reference(case: Case, contender: FlowContender) -> Case | None:
    """Float32 sequential: with ONNX Runtime where it is, another engine's witness, else its own."""
    precisions = contender.flow.bundle.manifest.precisions
    for engine in ("onnx", case.engine):
        there = engine == case.engine or is_installed("onnxruntime")
        if there and "fp32" in precisions.get(made_for(engine), ()):
            device = case.device if engine == case.engine else "cpu"
            return replace(case, engine=engine, precision="fp32", device=device, window=1)
    return None
