"""What a manifest must fulfil before a file of its bundle is opened or memory is reserved."""

from __future__ import annotations

from math import prod

from .errors import BundleError
from .hashing import is_sha256
from .manifest import MANIFEST, Artifact, Manifest
from .safe_paths import check_distinct, check_relative
from .spec import ARBlock, FlowSpec

MAX_MANIFEST_BYTES = 16 << 20
MAX_CACHE_BYTES = 64 << 30  # of one block and one picture; the largest published one needs 0.7 GB
_MIN_BITS_PER_WEIGHT = 2  # no precision has fewer
MAX_NAME = 100  # characters
NOT_IN_NAMES = set('/\\:*?"<>|')


def check_manifest(manifest: Manifest) -> None:
    """Check a parsed manifest against itself; no file is touched.

    Raises:
        BundleError: unsafe or undeclared paths, arrays or artifacts that do not fit the FlowSpec,
            or sizes that cannot be true.
    """
    try:
        check_name(manifest.name)
        _check_files(manifest)
        _check_arrays(manifest)
        for block in manifest.spec.ar_blocks:
            _check_cache(manifest.spec, block)
        for number, artifact in enumerate(manifest.artifacts):
            _check_artifact(manifest, f"artifacts[{number}]", artifact)
        for picture in manifest.golden.pictures:
            _check_declared(manifest, "golden picture", picture.path)
    except BundleError as error:
        raise BundleError(f"{MANIFEST}: {error}") from error


def array_shapes(spec: FlowSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array that the host code of a model needs."""
    T, D = spec.image.num_patches, spec.image.patch_dim
    shapes: dict[str, tuple[int, ...]] = {}
    if any(latent.prior == "scaled_normal" for latent in spec.latents):
        shapes["var"] = (T, D)
    for block in spec.ar_blocks:
        shapes[f"{block.name}.pos"] = (T, block.channels)
        shapes[f"{block.name}.classes"] = (spec.num_classes + 1, block.channels)
    return shapes


def usable_name(name: str) -> str:
    """The name of a bundle from one that a file has."""
    kept = (c if c.isprintable() and c not in NOT_IN_NAMES else "_" for c in name)
    return "".join(kept).lstrip(".")[:MAX_NAME] or "model"


def min_weight_bytes(spec: FlowSpec, block: ARBlock) -> int:
    """A lower bound of a block's weights on disk: attention and projections, no MLP."""
    attention = 4 * block.channels**2 * block.num_layers
    projections = 2 * block.channels * spec.image.patch_dim
    return (attention + projections) * _MIN_BITS_PER_WEIGHT // 8


def check_name(name: str) -> None:
    """It is printed, and becomes part of file names.

    Raises:
        BundleError: it cannot.
    """
    if not 1 <= len(name) <= MAX_NAME or name[0] == "." or set(name) & NOT_IN_NAMES:
        raise BundleError(f"name: {name[:80]!r} cannot be part of a file name")
    if not name.isprintable():
        raise BundleError(f"name: {name[:80]!r} has characters that cannot be printed")


def _check_files(manifest: Manifest) -> None:
    if MANIFEST in (path.casefold() for path in manifest.files):
        raise BundleError(f"files: {MANIFEST} cannot declare itself")
    check_distinct(manifest.files)
    for path, entry in manifest.files.items():
        check_relative(path)
        if entry.bytes < 0 or not is_sha256(entry.sha256):
            raise BundleError(
                f"files: {path} has {entry.bytes} bytes and the sha256 {entry.sha256[:80]!r}, "
                "expected a size and 64 hexadecimal digits"
            )


def _check_declared(manifest: Manifest, what: str, path: str) -> None:
    check_relative(path)
    if path not in manifest.files:
        raise BundleError(f"{what}: {path} is not declared in files")


def _check_arrays(manifest: Manifest) -> None:
    for name, expected in array_shapes(manifest.spec).items():
        if name not in manifest.arrays:
            raise BundleError(f"arrays: {name} {list(expected)} is missing")
        shape = manifest.arrays[name].shape
        if shape != expected:
            raise BundleError(
                f"arrays: {name} has the shape {list(shape)[:8]}, the model needs {list(expected)}"
            )
    for name, array in manifest.arrays.items():
        _check_declared(manifest, f"arrays: {name[:80]}", array.path)
        if len(array.shape) > 8 or not all(0 < size < 1 << 32 for size in array.shape):
            raise BundleError(f"arrays: {name[:80]} has the shape {list(array.shape)[:8]}")
        expected_bytes, num_bytes = 4 * prod(array.shape), manifest.files[array.path].bytes
        if num_bytes != expected_bytes:
            raise BundleError(
                f"arrays: {name[:80]} {list(array.shape)} needs {expected_bytes:,} bytes as "
                f"float32, {array.path} has {num_bytes:,}"
            )


def _check_cache(spec: FlowSpec, block: ARBlock) -> None:
    num_bytes = 2 * block.num_layers * spec.image.num_patches * block.channels * 4
    if num_bytes > MAX_CACHE_BYTES:
        raise BundleError(
            f"spec: {block.name} would need a KV cache of {num_bytes / 2**30:,.0f} GiB, more than "
            f"the {MAX_CACHE_BYTES >> 30} GiB that flowship believes"
        )


def _check_artifact(manifest: Manifest, where: str, artifact: Artifact) -> None:
    stage = {s.name: s for s in manifest.spec.stages}.get(artifact.stage)
    if stage is None:
        raise BundleError(f"{where}.stage: the model has no stage {artifact.stage[:80]!r}")
    if artifact.branches not in (1, 2):
        raise BundleError(f"{where}.branches: expected 1 or 2, got {artifact.branches}")
    T = manifest.spec.image.num_patches
    if not all(1 <= window <= T for window in artifact.windows):
        raise BundleError(f"{where}.windows: expected 1 to {T}, got {list(artifact.windows)[:8]}")
    _check_artifact_files(manifest, where, artifact)
    if isinstance(stage, ARBlock):
        num_bytes = sum(manifest.files[path].bytes for path in set(artifact.files))
        expected = min_weight_bytes(manifest.spec, stage)
        if num_bytes < expected:
            raise BundleError(
                f"{where}: its files have {num_bytes:,} bytes, too few for the weights of "
                f"{stage.num_layers} layers of {stage.channels} channels ({expected:,} at least)"
            )


def _check_artifact_files(manifest: Manifest, where: str, artifact: Artifact) -> None:
    for path in artifact.files:
        _check_declared(manifest, f"{where}.files", path)
    check_relative(artifact.path)
    inside = [path for path in artifact.files if path.startswith(artifact.path + "/")]
    if artifact.path not in artifact.files and not inside:
        raise BundleError(
            f"{where}.path: {artifact.path} is neither one of its files nor a folder of them"
        )
