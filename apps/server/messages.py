"""What clients send and what streams tell: one frozen dataclass each, the schema of the API."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ...runtime.guidance import GuideWhat
from ...runtime.likelihood import NoiseChoice
from ...runtime.plan import Plan

MAX_IMAGES = 64  # of one request: more bring no speed, and all of them wait in memory
MAX_GUIDANCE, MIN_ATTN_TEMP, MAX_ATTN_TEMP = 100.0, 0.01, 100.0  # far beyond what makes pictures
_SEED = re.compile(r"[0-9]{1,20}")


def parse_seed(text: str) -> int:
    """A decimal string from 0 to 2^64 - 1; ValueError for anything else."""
    if not _SEED.fullmatch(text) or int(text) >= 1 << 64:
        raise ValueError(f"the seed {text[:40]!r} is not a decimal number from 0 to 2^64 - 1")
    return int(text)


# ---- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Target:
    """The bundle (None: the first) and precision (None: its first) that a request is for."""

    bundle: str | None = None
    precision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling(Target):
    """How to sample; the defaults are those of Flow.generate()."""

    labels: tuple[int | None, ...] = ()
    guidance: float = 0.0
    guide_what: GuideWhat = "ab"
    annealed_guidance: bool = False
    attn_temp: float = 1.0
    denoise: bool = False
    plan: Plan | None = None
    preview: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.guidance <= MAX_GUIDANCE:
            raise ValueError(f"guidance {self.guidance} is not between 0 and {MAX_GUIDANCE:g}")
        if not MIN_ATTN_TEMP <= self.attn_temp <= MAX_ATTN_TEMP:
            raise ValueError(
                f"attn_temp {self.attn_temp} is not between {MIN_ATTN_TEMP} and {MAX_ATTN_TEMP:g}"
            )


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(Sampling):
    """Pictures from seeds, decimal strings because JavaScript's numbers lose digits."""

    seeds: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.seeds) <= MAX_IMAGES:
            raise ValueError(f"{len(self.seeds)} seeds, expected 1 to {MAX_IMAGES}")
        for seed in self.seeds:
            parse_seed(seed)


@dataclass(frozen=True, kw_only=True)
class DecodeRequest(Sampling):
    """Pictures from base64 of float32 [N, T, D], noise or the prior's z."""

    latents: str
    input: Literal["noise", "z"] = "noise"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture file, or pixels (width, height, channels, data); both as base64."""

    file: str | None = None
    width: int = 0
    height: int = 0
    channels: int = 0
    data: str | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.data is None):
            raise ValueError("expected either 'file' or 'width', 'height', 'channels' and 'data'")


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of an interpolation: a seed, a latent z (base64 of float32 [T, D]) or a picture."""

    seed: str | None = None
    z: str | None = None
    image: Picture | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.seed, self.z, self.image)) != 1:
            raise ValueError("expected exactly one of 'seed', 'z' and 'image'")
        if self.seed is not None:
            parse_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class InterpolateRequest(Sampling):
    """Pictures on the way between two latents, both ends included."""

    first: End
    last: End
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.steps <= MAX_IMAGES:
            raise ValueError(f"steps {self.steps} is not between 2 and {MAX_IMAGES}")


@dataclass(frozen=True, kw_only=True)
class EncodeRequest(Target):
    """The latent of a picture."""

    image: Picture
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(EncodeRequest):
    """The likelihood of a picture."""

    noise: NoiseChoice = "none"
    noise_seed: str = "0"

    def __post_init__(self) -> None:
        parse_seed(self.noise_seed)


# ---- events of a stream -------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """8-bit pixels row by row, channels together, as base64."""

    width: int
    height: int
    channels: int
    data: str


@dataclass(frozen=True)
class Queued:
    """The job waits; position 0 is next."""

    job: str
    position: int


@dataclass(frozen=True)
class Started:
    """The job computes."""

    job: str
    num_images: int
    num_blocks: int
    num_patches: int


@dataclass(frozen=True)
class Progress:
    """How far it is; previews are empty where they were not asked for."""

    block: str
    block_index: int
    patches: int
    num_patches: int
    fraction: float
    seconds: float
    seconds_left: float
    previews: tuple[Pixels, ...]


@dataclass(frozen=True)
class Denoising:
    """All blocks are done; the score step runs."""

    seconds: float


@dataclass(frozen=True)
class PictureMade:
    """A finished picture: PNG (base64) with its recipe, its pixels, and the recipe's JSON text."""

    index: int
    png: str
    pixels: Pixels
    recipe: str


@dataclass(frozen=True)
class Encoded:
    """The latent z (base64 of float32 ``shape``) of the picture ``input``, as the model saw it."""

    z: str
    shape: tuple[int, ...]
    logdet: float
    bits_per_dim: float
    convention: str
    input: Pixels


@dataclass(frozen=True)
class Scored:
    """The likelihood of the picture ``input``, in the words of ``convention``."""

    bits_per_dim: float
    nll: float
    logdet: float
    convention: str
    input: Pixels


@dataclass(frozen=True)
class Done:
    """Seconds of computing."""

    seconds: float


@dataclass(frozen=True)
class Cancelled:
    """Nothing follows."""


@dataclass(frozen=True)
class Error:
    """What went wrong, in words for people."""

    kind: str
    message: str


Event = (
    Queued | Started | Progress | Denoising | PictureMade | Encoded | Scored | Done
    | Cancelled | Error
)  # fmt: skip
EVENT_NAMES: dict[type[Event], str] = {
    Queued: "queued",
    Started: "started",
    Progress: "progress",
    Denoising: "denoising",
    PictureMade: "picture",
    Encoded: "encoded",
    Scored: "scored",
    Done: "done",
    Cancelled: "cancelled",
    Error: "error",
}
LAST_EVENTS = (Done, Cancelled, Error)
