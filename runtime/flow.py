"""Flow: a bundle opened with an engine. The public face of the runtime."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from .. import __version__
from .bundle import Bundle
from .clock import Clock
from .decoder import Decoding
from .denoise import denoise_others, denoise_patches
from .encoder import encode_blocks, pictures_together
from .engines import Engine, EngineOptions, find_engine
from .errors import UsageError
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
from .plan import PLAN, Plan, PlanFile
from .recipe import PHILOX_NOISE, Recipe
from .saved_plans import load_saved_plan
from .spec import FlowSpec

Floats = npt.NDArray[np.float32]
LabelLike = Label | Sequence[Label]
LatentInput = Literal["noise", "z"]


class Flow:
    """Generates, encodes, decodes and scores pictures with one bundle, engine and precision.

    Use :meth:`open`, and close it (or use it in a ``with`` statement) to free the engine.

    Attributes:
        bundle, engine, plan: its parts; the plan says how many patches a call evaluates.
    """

    def __init__(self, bundle: Bundle, engine: Engine, plan: Plan) -> None:
        self.bundle, self.engine, self.plan = bundle, engine, plan
        self._model = Model(bundle, engine)

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
        opened = Bundle.open(bundle)
        try:
            chosen = choose_precision(opened, engine, precision)
            saved = None
            if plan == "saved":
                saved = load_saved_plan(opened.sha256, engine, chosen, device)
            options = EngineOptions(chosen, device, threads)
            if saved and threads is None:
                options = replace(options, threads=saved.threads, spinning=saved.spinning)
            running = factory(opened, options)
            if isinstance(plan, Plan):
                _check_blocks(plan, opened.spec)
            else:
                plan = saved.plan if saved else default_plan(opened, engine, chosen)
        except BaseException:
            opened.close()
            raise
        return cls(opened, running, plan)

    @property
    def spec(self) -> FlowSpec:
        """What the model is: image, latents, blocks, classes."""
        return self.bundle.spec

    # -- latents to pictures -----------------------------------------------------------------------

    def generate(
        self,
        *,
        seed: int | Sequence[int] = 0,
        num_images: int | None = None,
        label: LabelLike = None,
        guidance: float = 0.0,
        guide_what: GuideWhat = "ab",
        annealed: bool = False,
        attn_temp: float = 1.0,
        denoise: bool = False,
    ) -> Generated:
        """Draw latents from seeds and decode them.

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
        seed: int | Sequence[int] = 0,
        num_images: int | None = None,
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
        seeds = _seeds(seed, num_images, label)
        labels = resolve_labels(label, self.spec, len(seeds))
        noise = draw_noise(seeds, self.spec)
        guide = Guidance(guidance, guide_what, annealed, attn_temp)
        recipe = self.recipe(labels, guide, denoise, seeds=seeds)
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
        if denoise:
            self._check_denoise()
        latent = self._check_latents(latents)
        if input not in ("noise", "z"):
            raise UsageError(f"input {input!r} is neither 'noise' nor 'z'")
        labels = resolve_labels(label, self.spec, len(latent))
        guide = Guidance(guidance, guide_what, annealed, attn_temp)
        z = self._scale(latent) if input == "noise" else latent
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
        """
        pictures = self._check_images(images)
        labels = resolve_labels(label, self.spec, len(pictures))
        patches = patchify(pictures, self.spec.image)
        size = pictures_together(self._model, len(patches))
        parts = [slice(i, i + size) for i in range(0, len(patches), size)]
        encoded = [self._encode(patches[part], labels[part]) for part in parts]
        return np.concatenate([z for z, _ in encoded]), np.concatenate([d for _, d in encoded])

    def log_likelihood(
        self,
        images: npt.ArrayLike,
        *,
        label: LabelLike = None,
        noise: NoiseChoice = "none",
        noise_seed: int = 0,
    ) -> Likelihood:
        """Exact likelihood of images [N, C, H, W] in [-1, 1], in bits per dimension.

        Args:
            noise: ``train`` adds the training noise first (picture i from the stream of
                ``noise_seed + i``), ``none`` scores the images as they are.
        """
        if noise not in ("none", "train"):
            raise UsageError(f"noise {noise!r} is neither 'none' nor 'train'")
        pictures = self._check_images(images)
        training = self.spec.training_noise
        if noise == "train":
            pictures = add_training_noise(pictures, training, noise_seed)
        z, logdet = self.encode(pictures, label=label)
        convention = describe_convention(training, noise)
        return likelihood(z, logdet, self.bundle.array("var"), convention)

    def denoise(self, images: npt.ArrayLike, *, label: LabelLike = None) -> Floats:
        """The score step x + sigma^2 grad log p(x) on images [N, C, H, W].

        Raises:
            UsageError: the model was not trained with (known) Gaussian noise.
            EngineError: the bundle has no denoising graphs for this engine and precision.
        """
        self._check_denoise()
        std = self.spec.training_noise.std
        assert std is not None
        pictures = self._check_images(images)
        labels = resolve_labels(label, self.spec, len(pictures))
        patches = patchify(pictures, self.spec.image)
        size = pictures_together(self._model, len(patches))
        parts = [slice(i, i + size) for i in range(0, len(patches), size)]
        done = [denoise_patches(self._model, patches[p], labels[p], std) for p in parts]
        return unpatchify(np.concatenate(done), self.spec.image)

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
        checked = self._check_latents(noise)
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

    def _encode(self, patches: Floats, labels: Labels) -> tuple[Floats, npt.NDArray[np.float64]]:
        logdet = np.zeros(len(patches))
        for encoded in encode_blocks(self._model, patches, labels):
            logdet += encoded.logdet
        return to_block_order(encoded.z, encoded.block), logdet

    def _scale(self, noise: Floats) -> Floats:
        """Standard normal noise to the prior's latents."""
        return noise * np.sqrt(self.bundle.array("var"))

    def _check_denoise(self) -> None:
        if self.spec.denoise is None:
            kind = self.spec.training_noise.kind
            raise UsageError(
                f"this model cannot denoise: its training noise is {kind}, denoising needs "
                "Gaussian noise of a known std (flowship export --noise-std)"
            )

    def _check_latents(self, latents: npt.ArrayLike) -> Floats:
        shape = self.spec.latents[0].shape
        return _check_array("latents", latents, shape, "T, D")

    def _check_images(self, images: npt.ArrayLike) -> Floats:
        return _check_array("images", images, self.spec.image.shape, "C, H, W")

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


def default_plan(bundle: Bundle, engine: str, precision: str) -> Plan:
    """The bundle's own plan, its tolerance not below the rounding of this engine and precision."""
    file = PlanFile.loads(bundle.path(PLAN).read_text("utf-8"))
    return replace(file.plan, tolerance=file.tolerance(made_for(engine), precision))


def _check_blocks(plan: Plan, spec: FlowSpec) -> None:
    there = [block.name for block in spec.ar_blocks]
    named = {**plan.windows, **plan.guided_windows, **plan.min_committed}
    if unknown := [name[:40] for name in named if name not in there]:
        raise UsageError(
            f"the plan names {', '.join(unknown[:4])}, but the bundle has {', '.join(there)}: "
            "it was made for another one"
        )


def draw_noise(seeds: Sequence[int], spec: FlowSpec) -> Floats:
    """[N, T, D] standard normal noise; picture i is the start of the stream of its own seed."""
    T, D = spec.latents[0].shape
    try:
        return np.stack([normals(seed, T * D).reshape(T, D) for seed in seeds])
    except ValueError as error:
        raise UsageError(str(error)) from error


def _seeds(seed: int | Sequence[int], num_images: int | None, label: LabelLike) -> list[int]:
    if isinstance(seed, int):
        several = isinstance(label, Sequence) and not isinstance(label, str)
        fallback = len(label) if several else 1  # type: ignore[arg-type]
        count = fallback if num_images is None else num_images
        if count < 1:
            raise UsageError(f"num_images {count} is below 1")
        return list(range(seed, seed + count))
    seeds = list(seed)
    if not seeds or num_images not in (None, len(seeds)):
        raise UsageError(f"{len(seeds)} seeds for {num_images} images")
    return seeds


def _check_array(what: str, value: npt.ArrayLike, shape: Sequence[int], words: str) -> Floats:
    array = np.ascontiguousarray(value, np.float32)
    if array.ndim != len(shape) + 1 or array.shape[1:] != tuple(shape) or not len(array):
        expected = ", ".join(map(str, shape))
        raise UsageError(
            f"{what} have the shape {list(array.shape)}, expected [N, {words}] = [N, {expected}]"
        )
    if not np.isfinite(array).all():
        raise UsageError(f"{what} hold NaN or infinity")
    return array


def made_for(engine: str) -> str:
    """The engine whose artifacts it runs: the interpreter runs Core ML's."""
    return "coreml" if engine == "coreml-interpreter" else engine


def choose_precision(bundle: Bundle, engine: str, precision: str | None) -> str:
    there = bundle.manifest.precisions.get(made_for(engine), ())
    if not there:
        raise UsageError(
            f"the bundle {bundle.manifest.name} has nothing for the engine {engine}: it has "
            f"{', '.join(bundle.manifest.precisions)}"
        )
    if precision is None:
        return there[0]
    if precision not in there:
        raise UsageError(
            f"the bundle {bundle.manifest.name} has no precision {precision!r} for {engine}: "
            f"choose from {', '.join(there)}"
        )
    return precision
