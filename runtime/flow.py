"""Flow: a bundle opened with an engine. The public face of the runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from .. import __version__
from .bundle import EMBEDDED_NAME, Bundle
from .clock import Clock
from .decoder import Decoding
from .denoise import denoise_others, denoise_patches
from .encoder import encode_blocks, pictures_together
from .engines import Engine, EngineOptions, find_engine
from .errors import BundleError, UsageError
from .events import Denoising, Event, Failed, Finished, Started, not_finite
from .generated import Generated, finished
from .guidance import Guidance, GuideWhat
from .images import patchify, to_uint8, unpatchify
from .labels import Label, resolve_labels
from .likelihood import (
    Likelihood,
    NoiseChoice,
    add_training_noise,
    describe_convention,
    likelihood,
)
from .model import Labels, Model, to_block_order
from .normal import normals
from .opening import check_blocks, choose_precision, default_plan
from .pictures import to_images, to_latents
from .plan import Plan
from .recipe import MAX_PICTURES, PHILOX_NOISE, Recipe
from .saved_plans import load_saved_plan
from .spec import FlowSpec
from .values import check_seed, flag, seeds_of, several, show, whole, word

Floats = npt.NDArray[np.float32]
LabelLike = Label | Sequence[Label] | npt.NDArray[Any]
SeedLike = SupportsIndex | Sequence[SupportsIndex] | npt.NDArray[Any]
LatentInput = Literal["noise", "z"]
INPUTS: tuple[LatentInput, ...] = get_args(LatentInput)
NOISES: tuple[NoiseChoice, ...] = get_args(NoiseChoice)


class Flow:
    """Generates, encodes, decodes and scores pictures with one bundle, engine and precision.

    Use :meth:`open`, and close it (or use it in a ``with`` statement) to free the engine.

    Attributes:
        bundle, engine, plan: its parts; the plan says how many patches a call evaluates.
    """

    def __init__(self, bundle: Bundle, engine: Engine, plan: Plan) -> None:
        self.bundle, self.engine, self.plan = bundle, engine, plan
        self._model = Model(bundle, engine)
        self._opened: dict[str, Any] | None = None  # what open() was given

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        engine: str = "onnx",
        precision: str | None = None,
        threads: int | None = None,
        device: str = "cpu",
        plan: Plan | Literal["saved", "default"] = "saved",
    ) -> Flow:
        """Open a bundle folder or zip; None opens the Fashion-MNIST one inside the package.

        Args:
            engine: ``onnx``, ``executorch``, ``coreml`` or ``coreml-interpreter``.
            precision: one that the bundle has for the engine; None takes the first.
            threads: of one engine call; None for the engine's choice. Pictures do not depend on it.
            device: in the engine's words, such as ``cpu``, ``cuda``, ``dml``.
            plan: ``saved`` is the one that ``flowship plan --save`` measured on this device, or
                the bundle's where there is none; ``default`` is the bundle's.

        Raises:
            BundleError: the bundle is damaged, hostile or too new.
            UsageError: no such engine, device, precision or, in a plan, block; the message lists
                those there are.
            MissingExtraError: the engine's package is not installed.
        """
        factory = find_engine(engine)
        if not isinstance(plan, Plan) and plan not in ("saved", "default"):
            raise UsageError(f"plan {show(plan)} is neither 'saved' nor 'default' nor a Plan")
        given: dict[str, Any] = {"bundle": _place(bundle), "engine": engine, "device": device}
        given |= {"precision": precision, "threads": threads, "plan": plan}
        opened = Bundle.open(bundle)
        try:
            chosen = choose_precision(opened, engine, precision)
            saved = None
            if plan == "saved":
                saved = load_saved_plan(opened.sha256, engine, chosen, device)
            options = EngineOptions(chosen, device, threads)
            if saved and threads is None:
                options = replace(options, threads=saved.threads, spinning=saved.spinning)
            if isinstance(plan, Plan):
                check_blocks(plan, opened.spec)
            else:
                plan = saved.plan if saved else default_plan(opened, engine, chosen)
            flow = cls(opened, factory(opened, options), plan)  # last: nothing leaves it open
        except BaseException:
            opened.close()
            raise
        flow._opened = given
        return flow

    def __reduce__(self) -> tuple[Callable[..., Flow], tuple[type[Flow], str, dict[str, Any]]]:
        """Pickled and copied as what it was opened with: an engine lives in one process."""
        if self._opened is None:
            raise TypeError(
                "only what Flow.open() gave can be pickled or copied: open the bundle in each "
                "process"
            )
        return _open_again, (type(self), self.bundle.sha256, self._opened)

    @property
    def spec(self) -> FlowSpec:
        """What the model is: image, latents, blocks, classes."""
        return self.bundle.spec

    # -- latents to pictures -----------------------------------------------------------------------

    def generate(
        self,
        *,
        seed: SeedLike = 0,
        num_images: SupportsIndex | None = None,
        label: LabelLike = None,
        guidance: float = 0.0,
        guide_what: GuideWhat = "ab",
        annealed: bool = False,
        attn_temp: float = 1.0,
        denoise: bool = False,
    ) -> Generated:
        """Draw latents from seeds and decode them.

        Numbers may be numpy's; several seeds or labels may be a list, tuple, range or array.

        Args:
            seed: picture i of ``num_images`` has the seed ``seed + i``; or one seed for each.
            num_images: 1 unless several seeds or labels are given.
            label: name or number of a class, one for all or one for each; None is unconditional.
            guidance, guide_what, annealed, attn_temp: see :class:`Guidance`.
            denoise: apply the score step at the end.

        Returns:
            The pictures with the recipe that makes them again.

        Raises:
            NonFiniteError: pictures hold NaN or infinity; ``made`` of the error has the others.
        """
        for event in self.events(
            seed=seed,
            num_images=num_images,
            label=label,
            guidance=guidance,
            guide_what=guide_what,
            annealed=annealed,
            attn_temp=attn_temp,
            denoise=denoise,
        ):
            if isinstance(event, Finished):
                return event.complete()
        raise AssertionError("events() ends with Finished")

    def events(
        self,
        *,
        seed: SeedLike = 0,
        num_images: SupportsIndex | None = None,
        label: LabelLike = None,
        guidance: float = 0.0,
        guide_what: GuideWhat = "ab",
        annealed: bool = False,
        attn_temp: float = 1.0,
        denoise: bool = False,
    ) -> Generator[Event, None, None]:
        """The same as generate(), told as it goes: Started, Progress..., Denoising, Finished.

        Close the iterator (or stop asking it) to cancel between two engine calls. Where pictures
        became NaN, Finished has the others and names them as ``failed``; if all did, it raises.
        """
        listed = several(label, "label")  # once: it may be an iterator
        seeds = _seeds(seed, num_images, 1 if listed is None else len(listed))
        labels = resolve_labels(label if listed is None else listed, self.spec, len(seeds))
        guide = Guidance(guidance, guide_what, annealed, attn_temp)
        recipe = self.recipe(labels, guide, flag(denoise, "denoise"), seeds=seeds)
        noise = draw_noise(seeds, self.spec)
        yield from self._events(noise, self._scale(noise), labels, guide, denoise, recipe)

    def decode(
        self,
        latents: npt.ArrayLike,
        *,
        input: LatentInput = "noise",
        label: LabelLike = None,
        guidance: float = 0.0,
        guide_what: GuideWhat = "ab",
        annealed: bool = False,
        attn_temp: float = 1.0,
        denoise: bool = False,
    ) -> Floats:
        """Latents [N, T, D] to float32 images [N, C, H, W], not clipped.

        Args:
            latents: standard normal noise, or the prior's own z with ``input="z"``.

        Raises:
            NonFiniteError: as generate(); ``made`` of the error has NaN where a picture failed.
        """
        latent = to_latents("the array of latents", latents, self.spec)
        kind = word(input, INPUTS, "input")
        labels = resolve_labels(label, self.spec, len(latent))
        guide = Guidance(guidance, guide_what, annealed, attn_temp)
        if denoise := flag(denoise, "denoise"):
            self._check_denoise()
        z = self._scale(latent) if kind == "noise" else latent
        decoding = Decoding(self._model, z, labels, guide, self.plan, keep_going=True)
        for _ in decoding.run():
            pass
        images = self._images(decoding, labels, denoise)
        if found := decoding.failed:
            images[list(found)] = np.nan
            failed = [Failed(i, i, reason) for i, reason in sorted(found.items())]
            made = images if len(failed) < len(images) else None
            raise not_finite(failed, len(images), made, "latent")
        return images

    # -- pictures to latents -----------------------------------------------------------------------

    def encode(
        self, images: npt.ArrayLike, *, label: LabelLike = None
    ) -> tuple[Floats, npt.NDArray[np.float64]]:
        """Images [N, C, H, W] to the prior's latents z [N, T, D] and logdet [N].

        logdet is log |dz/dx| as a mean over dimensions, the reference's convention.

        Args:
            images: floats in [-1, 1] or uint8 levels, in the layouts that ``.npy`` files may have.
        """
        pictures = self._pictures(images)
        return self._encode(pictures, resolve_labels(label, self.spec, len(pictures)))

    def log_likelihood(
        self,
        images: npt.ArrayLike,
        *,
        label: LabelLike = None,
        noise: NoiseChoice = "none",
        noise_seed: SupportsIndex = 0,
    ) -> Likelihood:
        """Exact likelihood of images [N, C, H, W] in [-1, 1], in bits per dimension.

        Args:
            images: as for encode().
            noise: ``train`` adds the training noise first (picture i from the stream of
                ``noise_seed + i``), ``none`` scores the images as they are.
        """
        choice = word(noise, NOISES, "noise")
        pictures = self._pictures(images)
        labels = resolve_labels(label, self.spec, len(pictures))
        seed = check_seed(noise_seed, "noise_seed", len(pictures))
        training = self.spec.training_noise
        if choice == "train":
            pictures = add_training_noise(pictures, training, seed)
        z, logdet = self._encode(pictures, labels)
        convention = describe_convention(training, choice)
        return likelihood(z, logdet, self.bundle.variances, convention)

    def denoise(self, images: npt.ArrayLike, *, label: LabelLike = None) -> Floats:
        """The score step x + sigma^2 grad log p(x) on images [N, C, H, W].

        Args:
            images: as for encode().

        Raises:
            UsageError: the model was not trained with (known) Gaussian noise.
            EngineError: the bundle has no denoising graphs for this engine and precision.
        """
        self._check_denoise()
        pictures = self._pictures(images)
        return self._denoise(pictures, resolve_labels(label, self.spec, len(pictures)))

    # -- recipes -----------------------------------------------------------------------------------

    def recipe(
        self,
        labels: Labels,
        guidance: Guidance,
        denoise: bool,
        *,
        seeds: Sequence[int] = (),
        noise: str | None = None,
    ) -> Recipe:
        """All that is needed to make pictures again: of seeds, or of noise with the given hash."""
        info = self.engine.info
        return Recipe(
            flowship_version=__version__,
            bundle=self.bundle.manifest.name,
            bundle_sha256=self.bundle.sha256,
            engine=info.name,
            engine_version=info.version,
            device=info.device,
            precision=info.precision,
            seeds=tuple(seeds) if noise is None else tuple(range(len(labels))),
            labels=tuple(labels),
            plan_sha256=self.plan.sha256,
            plan=self.plan,
            guidance=guidance.scale,
            guide_what=guidance.what,
            annealed_guidance=guidance.annealed,
            attn_temp=guidance.attn_temp,
            denoise=denoise,
            noise=noise or PHILOX_NOISE,
        )

    def decode_events(
        self,
        noise: npt.ArrayLike,
        *,
        labels: Labels,
        guidance: Guidance,
        denoise: bool,
        recipe: Recipe,
    ) -> Generator[Event, None, None]:
        """The events of decoding given noise [N, T, D], for pictures with a recipe of their own."""
        checked = to_latents("the array of noise", noise, self.spec)
        yield from self._events(checked, self._scale(checked), labels, guidance, denoise, recipe)

    # -- inside ------------------------------------------------------------------------------------

    def _events(
        self,
        noise: Floats,
        z: Floats,
        labels: Labels,
        guidance: Guidance,
        denoise: bool,
        recipe: Recipe,
    ) -> Generator[Event, None, None]:
        if denoise:
            self._check_denoise()
        clock = Clock(self.spec, len(z))
        yield Started(len(z), len(self.spec.ar_blocks), self.spec.image.num_patches)
        decoding = Decoding(self._model, z, labels, guidance, self.plan, keep_going=True)

        def preview() -> npt.NDArray[np.uint8]:
            return to_uint8(np.nan_to_num(unpatchify(decoding.preview(), self.spec.image)))

        for committed in decoding.run():
            if clock.is_due(committed):
                yield clock.progress(committed, preview)
        if denoise:
            yield Denoising(clock.seconds)
        images = self._images(decoding, labels, denoise)
        yield finished(images, noise, recipe, decoding.failed, clock.seconds)

    def _images(self, decoding: Decoding, labels: Labels, denoise: bool) -> Floats:
        """[N, C, H, W] of a decoding that has ended."""
        patches = decoding.state
        if denoise and (std := self.spec.training_noise.std) is not None:
            patches = denoise_others(self._model, patches, labels, std, decoding.failed)
        return unpatchify(patches, self.spec.image)

    def _encode(self, pictures: Floats, labels: Labels) -> tuple[Floats, npt.NDArray[np.float64]]:
        found = [
            self._encode_part(
                patches, labels[first : first + len(patches)], first if len(pictures) > 1 else None
            )
            for first, patches in self._parts(pictures)
        ]
        return np.concatenate([z for z, _ in found]), np.concatenate([d for _, d in found])

    def _encode_part(
        self, patches: Floats, labels: Labels, first: int | None
    ) -> tuple[Floats, npt.NDArray[np.float64]]:
        logdet = np.zeros(len(patches))
        for encoded in encode_blocks(self._model, patches, labels, first):
            logdet += encoded.logdet
        return to_block_order(encoded.z, encoded.block), logdet

    def _denoise(self, pictures: Floats, labels: Labels) -> Floats:
        std = self.spec.training_noise.std
        assert std is not None  # _check_denoise() was asked
        several = len(pictures) > 1
        done = [
            denoise_patches(
                self._model, part, labels[i : i + len(part)], std, i if several else None
            )
            for i, part in self._parts(pictures)
        ]
        return unpatchify(np.concatenate(done), self.spec.image)

    def _parts(self, pictures: Floats) -> Iterator[tuple[int, Floats]]:
        """Number of the first picture and patches of those that are encoded together."""
        patches = patchify(pictures, self.spec.image)
        size = pictures_together(self._model, len(patches))
        return ((i, patches[i : i + size]) for i in range(0, len(patches), size))

    def _scale(self, noise: Floats) -> Floats:
        """Standard normal noise to the prior's latents."""
        return noise * np.sqrt(self.bundle.variances)

    def _check_denoise(self) -> None:
        if self.spec.denoise is None:
            kind = self.spec.training_noise.kind
            raise UsageError(
                f"this model cannot denoise: its training noise is {kind}, denoising needs "
                "Gaussian noise of a known std (flowship export --noise-std)"
            )

    def _pictures(self, images: npt.ArrayLike) -> Floats:
        return to_images("the array of images", images, self.spec.image)

    def close(self) -> None:
        """Free the engine and the bundle."""
        self.engine.close()
        self.bundle.close()

    def __enter__(self) -> Flow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def draw_noise(seeds: SeedLike, spec: FlowSpec) -> Floats:
    """[N, T, D] standard normal noise; picture i is the start of the stream of its own seed."""
    T, D = spec.latents[0].shape
    return np.stack([normals(seed, T * D).reshape(T, D) for seed in seeds_of(seeds)])


def _seeds(seed: SeedLike, num_images: SupportsIndex | None, num_labels: int) -> list[int]:
    count = None if num_images is None else whole(num_images, "num_images")
    if count is not None and not 1 <= count <= MAX_PICTURES:
        raise UsageError(f"num_images {count} is not between 1 and {MAX_PICTURES}")
    listed = several(seed, "seed")
    if listed is None:
        count = max(1, num_labels) if count is None else count
        first = check_seed(seed, count=count)
        return list(range(first, first + count))
    seeds = seeds_of(listed)
    if count not in (None, len(seeds)):
        raise UsageError(f"{len(seeds)} seeds for {count} images")
    return seeds


def _place(bundle: str | os.PathLike[str] | None) -> str | None:
    """The same bundle for a process that works in another folder."""
    if bundle is None or bundle == EMBEDDED_NAME:
        return None
    return os.path.abspath(os.fspath(bundle))


def _open_again(kind: type[Flow], sha256: str, given: dict[str, Any]) -> Flow:
    """What a pickled Flow becomes.

    Raises:
        BundleError: another bundle lies there by now.
    """
    flow = kind.open(**given)
    if flow.bundle.sha256 != sha256:
        flow.close()
        raise BundleError(f"{given['bundle']} is not the bundle any more that the Flow was made of")
    return flow
