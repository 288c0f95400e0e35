"""Synthetic TarFlow checkpoints: random weights at any size, to measure what no one has trained.

``python -m flowship.export.synthetic tarflow-afhq256 -o FOLDER``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from ..runtime.cli import Parser
from ..runtime.errors import UsageError
from ..runtime.progress import ProgressLine
from ..runtime.spec import TrainingNoise
from .families.tarflow import (
    Floats,
    TarFlowConfig,
    checkpoint_name,
    expected_shapes,
)
from .options import MAX_NOISE_STD
from .sources.safetensors_file import write_safetensors

# How far a block is from the identity: xa and xb get a standard deviation of 0.13 to 0.17, so that
# the pictures' variance grows by a twentieth in each block. The gain from one patch to the next has
# to stay well below 1: above it, decoding a thousand patches in sequence multiplies every rounding
# error, and xa, an exponent, overflows.
OUTPUT_GAIN = 0.1
EMBEDDING_STD = 0.3  # rows of positions and classes, beside patches of size 1
NORM_STD, BIAS_STD, VAR_LOG_STD = 0.1, 0.05, 0.3  # not 1 or 0, so that nothing can be left out

Progress = Callable[[int, int], None]  # bytes written, bytes in all


@dataclass(frozen=True)
class Preset:
    """A size, most of them published, and the data set its file name begins with."""

    dataset: str
    config: TarFlowConfig


def _preset(
    dataset: str, img_size: int, patch_size: int, channels: int, classes: int, noise: float
) -> Preset:
    """8 blocks of 8 layers on RGB, as all published ones are."""
    config = TarFlowConfig(
        in_channels=3,
        img_size=img_size,
        patch_size=patch_size,
        channels=channels,
        num_blocks=8,
        layers_per_block=8,
        num_classes=classes,
        nvp=True,
        head_dim=64,
        expansion=4,
        noise=TrainingNoise("gaussian", noise),
    )
    return Preset(dataset, config)


_AFHQ = _preset("afhq", 256, 8, 768, 3, 0.07)
PRESETS = {
    "tarflow-afhq256": _AFHQ,
    "tarflow-imagenet64": _preset("imagenet64", 64, 2, 768, 0, 0.05),
    "tarflow-imagenet64-cond": _preset("imagenet", 64, 4, 1024, 1000, 0.05),
    "tarflow-imagenet128": _preset("imagenet", 128, 4, 1024, 1000, 0.15),
    # TarFlow's architecture at STARFlow's width: one block of 24 layers with 3072 channels has 2.7
    # billion parameters, 10.9 GB. Few patches, since it is the weights that are hard to hold.
    "tarflow-starflow-width": Preset(
        "starflow_width",
        replace(
            _AFHQ.config,
            img_size=64,
            channels=3072,
            num_blocks=1,
            layers_per_block=24,
            num_classes=0,
        ),
    ),
    "tarflow-tiny": Preset(
        "tiny",
        replace(
            _AFHQ.config, img_size=16, patch_size=4, channels=128, num_blocks=3, layers_per_block=2
        ),
    ),
}


def write_checkpoint(
    folder: Path,
    dataset: str,
    config: TarFlowConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write a checkpoint of random weights, tensor by tensor, named as the reference names its own.

    The same seed gives the same file with the same numpy, whatever the number of threads. Causal
    masks are left out.

    Args:
        folder: made if it is not there.
        dataset: first part of the file name.
        config: sizes of the model; head_dim is in no checkpoint, so an import has to be told one
            that is not 64.
        seed: 0 or more.
        progress: called after each tensor.

    Returns:
        The .safetensors file; it appears only when it is complete.

    Raises:
        UsageError: sizes that no model has.
    """
    try:
        config.flow_spec()  # knows the limits of every size
        path = folder / f"{checkpoint_name(dataset, config)}.safetensors"
    except ValueError as error:
        raise UsageError(f"no such model: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    shapes = expected_shapes(config)
    total = 4 * (config.num_parameters + config.num_patches * config.patch_dim)

    def arrays() -> Iterator[tuple[str, Floats]]:
        done = 0
        for name, shape in shapes.items():
            array = _weights(config, name, shape, seed)
            yield name, array
            done += array.nbytes
            if progress:
                progress(done, total)

    write_safetensors(path, shapes, arrays())
    return path


def _weights(config: TarFlowConfig, name: str, shape: tuple[int, ...], seed: int) -> Floats:
    """One tensor; its stream depends on the seed and its name alone."""
    mean, std = _moments(config, name, shape)
    stream = np.random.Generator(np.random.SFC64([seed, crc32(name.encode())]))
    array = stream.standard_normal(shape, np.float32)
    array *= np.float32(std)
    array += np.float32(mean)
    return np.exp(array, out=array) if name == "var" else array


def _moments(config: TarFlowConfig, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor (of its logarithm for ``var``).

    Activations keep a size of about 1 at every depth: a matrix [out, in] has 1 / sqrt(in), and what
    each layer adds to the residual stream is divided by sqrt(2 * layers). See also OUTPUT_GAIN.
    """
    if name == "var":
        return 0.0, 0.0 if config.nvp else VAR_LOG_STD
    if name.endswith("_embed"):
        return 0.0, EMBEDDING_STD
    if ".norm." in name:
        return float(name.endswith("weight")), NORM_STD
    if name.endswith("bias"):
        return 0.0, BIAS_STD
    std = shape[1] ** -0.5
    if name.endswith(("attention.proj.weight", "mlp.main.2.weight")):
        std *= (2 * config.layers_per_block) ** -0.5
    if name.endswith("proj_out.weight"):
        std *= OUTPUT_GAIN
    return 0.0, std


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m flowship.export.synthetic",
        description="Write a TarFlow checkpoint with random weights, to measure sizes that nobody "
        "has trained. Options change the sizes that the name stands for.",
    )
    parser.add_argument("name", choices=PRESETS, help="a size with a name")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder (default: here)")
    parser.add_argument("--seed", type=_count, default=0, help="0 or more (default: %(default)s)")
    parser.add_argument("--img-size", type=_size, help="height and width in pixels")
    parser.add_argument("--in-channels", type=_size, help="1 is grey, 3 is RGB")
    parser.add_argument("--patch-size", type=_size, help="height and width of a patch in pixels")
    parser.add_argument("--channels", type=_size, help="width of the transformers")
    parser.add_argument(
        "--head-dim", type=_size, help="width of an attention head; no checkpoint stores it, so "
        "an import has to be told one that is not 64"
    )  # fmt: skip
    parser.add_argument("--blocks", type=_size, dest="num_blocks", help="flow steps")
    parser.add_argument("--layers", type=_size, dest="layers_per_block", help="layers of a block")
    parser.add_argument("--classes", type=_count, dest="num_classes", help="0 is unconditional")
    parser.add_argument("--no-nvp", action="store_false", dest="nvp", help="volume preserving")
    parser.add_argument("--noise-std", type=_noise, dest="noise", help="0.01 or more, or 'uniform'")
    return parser


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _size(text: str) -> int:
    value = _count(text)
    if not value:
        raise argparse.ArgumentTypeError("0 is too small")
    return value


def _noise(text: str) -> TrainingNoise:
    if text == "uniform":
        return TrainingNoise("uniform")
    try:
        std = float(text)
    except ValueError:
        std = 0.0
    if not 0.01 <= std < MAX_NOISE_STD:  # the file name has two digits
        raise argparse.ArgumentTypeError(f"{text} is neither 'uniform' nor between 0.01 and 10")
    return TrainingNoise("gaussian", std)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = build_parser()
    options = vars(parser.parse_args(arguments))
    del options["given"]  # which the parser notes
    preset, folder, seed = PRESETS[options.pop("name")], options.pop("output"), options.pop("seed")
    if folder.exists() and not folder.is_dir():
        parser.error(f"-o {folder} is a file: name a folder")
    sizes = {name: value for name, value in options.items() if value is not None}
    config = replace(preset.config, **sizes)
    line = ProgressLine()

    def progress(done: int, total: int) -> None:
        line.update(done / total, f"of {total / 1e6:,.0f} MB written")

    try:
        path = write_checkpoint(folder, preset.dataset, config, seed=seed, progress=progress)
    except UsageError as error:
        line.clear()
        parser.error(str(error))  # exits with 2
    except OSError as error:
        line.clear()
        place = f"{error.filename}: " if error.filename else ""
        print(f"{parser.prog}: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        line.clear()
        return 130
    line.clear()
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
