"""manifest.json: what a bundle holds, where it came from, and what was measured about it."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any, Literal

from .errors import BundleError
from .schema import from_json, parse_json, to_json
from .spec import FlowSpec
from .text import portable_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
EngineName = Literal["onnx", "executorch", "coreml"]
_WEIGHTS = ", weights "


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ArrayEntry:
    """A raw little-endian float32 array for host code.

    Names: ``var`` [T, D], the variances of the prior; ``<block>.pos`` [T, C], the position rows in
    the block's own order of patches; ``<block>.classes`` [K + 1, C], the class rows and, last,
    their mean (the unconditional row).
    """

    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Artifact:
    """One graph of one stage for one engine.

    Attributes:
        engine, precision: for whom and in which arithmetic.
        role: ``step`` (a window of patches with the KV cache inside) or ``vjp`` (vector-Jacobian
            product of the whole sequence, for denoising).
        stage: name of the stage.
        form: how the graph is built; each engine names its own forms.
        branches: 1, or 2 where both guidance branches run in one call.
        windows: window lengths it takes; empty means every length from 1 to T.
        path: the file (or package folder) an engine opens.
        files: every file it needs, ``path`` included.
    """

    engine: EngineName
    precision: str
    role: Literal["step", "vjp"]
    stage: str
    form: str
    branches: int
    windows: tuple[int, ...]
    path: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """The checkpoint that was exported.

    Attributes:
        file: its name, with the weights that were taken where it holds several models
            (``x.pth, weights ema``).
        sha256: of the file; of a checkpoint in parts what ``sha256sum PARTS | sha256sum`` prints.
        num_parameters: trainable ones.
    """

    file: str
    sha256: str
    licence: str | None
    num_parameters: int | None = None

    @property
    def weights(self) -> str | None:
        """Which model of the file was taken, where it holds several."""
        return self.file.rpartition(_WEIGHTS)[2] if _WEIGHTS in self.file else None


def weights_label(file: str, weights: str | None) -> str:
    """``Source.file`` for one of the models in a checkpoint's file."""
    return file if weights is None else f"{file}{_WEIGHTS}{weights}"


@dataclass(frozen=True)
class Quality:
    """What was measured when the artifacts of one engine and precision were exported.

    Attributes:
        checked_with: engine and version that ran the artifacts.
        check: ``full`` compared whole images; ``spot`` compared some windows of every block.
        inputs: what it was measured on, in words.
        max_abs_error: of (xa, xb) against the float32 torch module; where weights are quantized,
            against the module with what the codes stand for, so that it is the engine's part alone.
        relative_error: the same as the largest |difference| / max(1, |value|).
        rms_error: the same as the root mean square of the differences over that of the values (at
            least 0.01), of the worst block. These two are what an export is refused by; None in
            bundles of earlier versions, which judged blocks by PSNR.
        image_max_abs_error, psnr_db: of decoded images against those of the trained model (PSNR
            with peak 2, worst picture); None where ``check`` is spot.
        psnr_db_median: of the median picture; None where ``check`` is spot.
        bits_per_dim, bits_per_dim_change: on real pictures, and the change against float32.
        bits_per_dim_change_low, bits_per_dim_change_high: 95% interval of the mean change.
        bits_per_dim_inputs: the pictures and the noise convention.
        round_trip_error: max_abs_error of encode(decode(z)) on the same noise.
        nbytes: of the artifacts' files.
        peak_memory_bytes: that a process of its own had in memory at most, Python included, while
            it made a picture (``check`` full: one picture without guidance; spot: the checked first
            patches of one block), rounded up to 10 MB; None where it cannot be measured and in
            bundles where nothing is quantized.
        method: how the codes were found, ``rtn`` or ``gptq``, and on which pictures; None where
            nothing is quantized.
        formats: of the quantized matrices, by stage name; what is not named stays float.
    """

    engine: EngineName
    precision: str
    checked_with: str
    check: Literal["full", "spot"]
    inputs: str
    max_abs_error: float
    image_max_abs_error: float | None = None
    psnr_db: float | None = None
    psnr_db_median: float | None = None
    bits_per_dim: float | None = None
    bits_per_dim_change: float | None = None
    bits_per_dim_inputs: str | None = None
    bits_per_dim_change_low: float | None = None
    bits_per_dim_change_high: float | None = None
    round_trip_error: float | None = None
    nbytes: int | None = None
    method: str | None = None
    formats: dict[str, dict[str, str]] | None = None
    peak_memory_bytes: int | None = None
    relative_error: float | None = None
    rms_error: float | None = None


@dataclass(frozen=True)
class GoldenPicture:
    """An 8-bit picture that the exported artifacts made: ``path`` is a PNG with its recipe."""

    path: str
    engine: EngineName
    precision: str
    seed: int
    label: int | None
    guidance: float


@dataclass(frozen=True)
class Golden:
    """Values that ``flowship verify`` makes again. The noise hash is over little-endian float32."""

    noise_seed: int
    noise_sha256: str
    pictures: tuple[GoldenPicture, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json."""

    schema_version: int
    flowship_version: str
    name: str
    spec: FlowSpec
    source: Source
    arrays: dict[str, ArrayEntry]
    files: dict[str, FileEntry]
    artifacts: tuple[Artifact, ...]
    quality: tuple[Quality, ...]
    golden: Golden

    def dumps(self) -> str:
        text = json.dumps(to_json(self), indent=1, ensure_ascii=False, allow_nan=False)
        return portable_json(text) + "\n"

    @staticmethod
    def loads(text: str) -> Manifest:
        """Parse and validate.

        Raises:
            BundleError: not JSON, not this schema, or a wrong value (the message has its path).
        """
        data: Any = parse_json(text, MANIFEST)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise BundleError(
                f"{MANIFEST}: schema_version is missing, this is not a flowship bundle"
            )
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"{MANIFEST}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest "
                "that this flowship reads: update flowship"
            )
        return from_json(Manifest, data, MANIFEST)

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """The file's bytes, as loads().

        Raises:
            BundleError: as loads(), or the text is not UTF-8 as it was written.
        """
        if data.startswith(_BYTE_ORDER_MARKS):
            raise BundleError(
                f"{MANIFEST} begins with a byte order mark: an editor changed it, copy or export "
                "the bundle again"
            )
        try:
            return Manifest.loads(data.decode())
        except UnicodeDecodeError as error:
            raise BundleError(f"{MANIFEST} is not UTF-8: {error}") from error

    @property
    def precisions(self) -> dict[str, tuple[str, ...]]:
        """Precisions of each engine, in the order of the artifacts."""
        found: dict[str, dict[str, None]] = {}
        for artifact in self.artifacts:
            found.setdefault(artifact.engine, {})[artifact.precision] = None
        return {engine: tuple(names) for engine, names in found.items()}

    def find(
        self, engine: str, precision: str, role: str, stage: str, branches: int = 1
    ) -> tuple[Artifact, ...]:
        """All artifacts that match (several where each window has a graph of its own)."""
        return tuple(
            a
            for a in self.artifacts
            if (a.engine, a.precision, a.role, a.stage, a.branches)
            == (engine, precision, role, stage, branches)
        )
