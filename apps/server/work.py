"""What the jobs compute: a request and a flow to the events of its stream."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace

import numpy as np

from ...runtime import events
from ...runtime.errors import UsageError
from ...runtime.flow import Flow, draw_noise
from ...runtime.guidance import Guidance
from ...runtime.hashing import sha256_bytes
from ...runtime.images import Floats, to_uint8
from ...runtime.interpolation import slerp
from ...runtime.labels import resolve_labels
from ...runtime.likelihood import describe_convention, likelihood
from ...runtime.model import Labels
from ...runtime.png import encode_png
from ...runtime.prepare import MODES
from ...runtime.recipe import Between
from .binary import decode_floats, encode_floats, encode_pixels, read_picture
from .messages import (
    MAX_IMAGES,
    DecodeRequest,
    Denoising,
    Encoded,
    EncodeRequest,
    End,
    Event,
    GenerateRequest,
    InterpolateRequest,
    PictureMade,
    Progress,
    Sampling,
    Scored,
    ScoreRequest,
    Started,
    Target,
    parse_seed,
)
from .models import can_denoise

Stream = Generator[Event, None, None]


def generate(flow: Flow, request: GenerateRequest, job: str) -> Stream:
    """Pictures from seeds."""
    seeds = [parse_seed(seed) for seed in request.seeds]
    guidance = _guidance(request)
    yield from _follow(
        flow.events(
            seed=seeds,
            label=_labels(flow, request, len(seeds)),
            guidance=guidance.scale,
            guide_what=guidance.what,
            annealed=guidance.annealed,
            attn_temp=guidance.attn_temp,
            denoise=request.denoise,
        ),
        request,
        job,
        flow,
    )


def decode(flow: Flow, request: DecodeRequest, job: str) -> Stream:
    """Pictures from latents."""
    latents = decode_floats(request.latents, flow.spec.latents[0].shape, "latents")
    if len(latents) > MAX_IMAGES:
        raise UsageError(f"latents of {len(latents)} pictures, at most {MAX_IMAGES} are taken")
    noise = _to_noise(flow, latents) if request.input == "z" else latents
    yield from _decode(flow, request, noise, _labels(flow, request, len(noise)), job)


def interpolate(flow: Flow, request: InterpolateRequest, job: str) -> Stream:
    """Pictures between two ends; each takes the label of the nearer one."""
    ends, steps = _labels(flow, request, 2), request.steps
    first = _end(flow, request.first, ends[0], "first")
    last = _end(flow, request.last, ends[1], "last")
    noise = np.concatenate([slerp(first, last, i / (steps - 1)) for i in range(steps)])
    labels = [ends[0] if 2 * i < steps else ends[1] for i in range(steps)]
    seeds = [parse_seed(end.seed) for end in (request.first, request.last) if end.seed is not None]
    between = Between(steps, tuple(seeds)) if len(seeds) == 2 else None
    yield from _decode(flow, request, noise, labels, job, between)


def encode(flow: Flow, request: EncodeRequest, job: str) -> Stream:
    """The latent of a picture."""
    image = read_picture(request.image, flow.spec.image)[None]
    yield _started(flow, job, 1)
    z, logdet = flow.encode(image, label=[request.label])
    convention = describe_convention(flow.spec.training_noise, "none")
    found = likelihood(z, logdet, flow.bundle.variances, convention)
    yield Encoded(
        encode_floats(z[0]),
        z.shape[1:],
        float(logdet[0]),
        float(found.bits_per_dim[0]),
        convention,
        encode_pixels(to_uint8(image[0])),
    )


def score(flow: Flow, request: ScoreRequest, job: str) -> Stream:
    """The likelihood of a picture."""
    image = read_picture(request.image, flow.spec.image)[None]
    yield _started(flow, job, 1)
    seed = parse_seed(request.noise_seed)
    found = flow.log_likelihood(image, label=[request.label], noise=request.noise, noise_seed=seed)
    yield Scored(
        float(found.bits_per_dim[0]),
        float(found.nll[0]),
        float(found.logdet[0]),
        found.convention,
        encode_pixels(to_uint8(image[0])),
    )


Work = Callable[[Flow, str], Stream]


def bind(request: Target) -> Work:
    """The work of a request, to be called with a flow and the job's id."""
    if isinstance(request, GenerateRequest):
        return lambda flow, job: generate(_planned(flow, request), request, job)
    if isinstance(request, DecodeRequest):
        return lambda flow, job: decode(_planned(flow, request), request, job)
    if isinstance(request, InterpolateRequest):
        return lambda flow, job: interpolate(_planned(flow, request), request, job)
    if isinstance(request, ScoreRequest):
        return lambda flow, job: score(flow, request, job)
    assert isinstance(request, EncodeRequest)
    return lambda flow, job: encode(flow, request, job)


# ---- parts --------------------------------------------------------------------------------------


def _planned(flow: Flow, request: Sampling) -> Flow:
    """The same bundle and engine with the request's own plan; the lender closes them."""
    if flow.spec.image.in_channels not in MODES:
        raise UsageError(
            f"this model's images have {flow.spec.image.in_channels} channels, which no PNG holds"
        )
    _check_denoise(flow, request)
    return flow if request.plan is None else Flow(flow.bundle, flow.engine, request.plan)


def _check_denoise(flow: Flow, request: Sampling) -> None:
    """Before anything is computed; flow says itself what a model without the right noise lacks."""
    engine = flow.engine.info
    if not request.denoise or flow.spec.denoise is None:
        return
    if not can_denoise(flow.bundle, engine.name, engine.precision):
        raise UsageError(
            f"the bundle {flow.bundle.manifest.name} has no denoising graphs for {engine.name} "
            f"{engine.precision}: GET /api/bundles lists denoise_precisions"
        )


def _guidance(request: Sampling) -> Guidance:
    return Guidance(
        request.guidance, request.guide_what, request.annealed_guidance, request.attn_temp
    )


def _labels(flow: Flow, request: Sampling, count: int) -> list[int | None]:
    return list(resolve_labels(list(request.labels) or None, flow.spec, count))


def _to_noise(flow: Flow, z: Floats) -> Floats:
    """The prior's z to standard normal noise."""
    return np.asarray(z / np.sqrt(flow.bundle.variances), np.float32)


def _end(flow: Flow, end: End, label: int | None, what: str) -> Floats:
    """[1, T, D] noise of one end."""
    if end.seed is not None:
        return draw_noise([parse_seed(end.seed)], flow.spec)
    if end.z is not None:
        z = decode_floats(end.z, flow.spec.latents[0].shape, f"{what}.z")
        if len(z) != 1:
            raise UsageError(f"{what}.z holds {len(z)} latents, expected one")
        return _to_noise(flow, z)
    assert end.image is not None
    z, _ = flow.encode(read_picture(end.image, flow.spec.image)[None], label=[label])
    return _to_noise(flow, z)


def _decode(
    flow: Flow,
    request: Sampling,
    noise: Floats,
    labels: Labels,
    job: str,
    between: Between | None = None,
) -> Stream:
    guidance = _guidance(request)
    digest = sha256_bytes(noise.astype("<f4").tobytes())
    recipe = flow.recipe(labels, guidance, request.denoise, noise=digest)
    if between:
        recipe = replace(recipe, recipe_version=2, between=between)
    made = flow.decode_events(
        noise, labels=labels, guidance=guidance, denoise=request.denoise, recipe=recipe
    )
    yield from _follow(made, request, job, flow)


def _follow(
    made: Generator[events.Event, None, None], request: Sampling, job: str, flow: Flow
) -> Stream:
    T = flow.spec.image.num_patches
    with closing(made):
        for event in made:
            if isinstance(event, events.Started):
                yield _started(flow, job, event.num_images)
            elif isinstance(event, events.Progress):
                yield _progress(event, T, request.preview)
            elif isinstance(event, events.Denoising):
                yield Denoising(event.seconds)
            else:
                yield from _pictures(event)


def _started(flow: Flow, job: str, num_images: int) -> Started:
    return Started(job, num_images, len(flow.spec.ar_blocks), flow.spec.image.num_patches)


def _progress(event: events.Progress, num_patches: int, preview: bool) -> Progress:
    shown = event.preview() if preview else ()
    return Progress(
        event.block,
        event.block_index,
        event.patches,
        num_patches,
        event.fraction,
        event.seconds,
        event.seconds_left,
        tuple(encode_pixels(picture) for picture in shown),
    )


def _pictures(finished: events.Finished) -> Stream:
    """Those that are finite, each under its number in the request; then the others are an error."""
    recipe, bad = finished.result.recipe, {one.number for one in finished.failed}
    numbers = (i for i in range(len(finished.result) + len(bad)) if i not in bad)
    for i, (number, picture) in enumerate(zip(numbers, finished.result.pictures(), strict=True)):
        own = replace(recipe, seeds=(recipe.seeds[i],), labels=(recipe.labels[i],))
        png = base64.b64encode(encode_png(picture[None], own)).decode()
        yield PictureMade(number, png, encode_pixels(picture), own.dumps())
    finished.complete()
