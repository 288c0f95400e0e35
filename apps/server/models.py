"""The bundles that are served, and the one flow that is open at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...runtime.bundle import EMBEDDED, Bundle
from ...runtime.errors import UsageError
from ...runtime.flow import Flow
from ...runtime.opening import choose_precision, made_for


@dataclass(frozen=True)
class EngineChoice:
    """The engine behind all bundles, in the words of Flow.open(); None is the default."""

    engine: str = "onnx"
    precision: str | None = None
    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class BundleInfo:
    """A bundle in ``GET /api/bundles``.

    Attributes:
        denoise: the model can denoise, and its first precision has the graphs.
        denoise_precisions: those whose graphs denoise.
    """

    id: str
    name: str
    sha256: str
    bytes: int
    width: int
    height: int
    channels: int
    classes: tuple[str, ...]
    num_classes: int
    precisions: tuple[str, ...]
    guidance: bool
    denoise: bool
    denoise_precisions: tuple[str, ...]
    training_noise: dict[str, str | float | None]
    num_blocks: int
    num_patches: int
    patch_size: int
    patch_dim: int
    num_parameters: int | None
    licence: str | None
    source_file: str
    engine: dict[str, str | int | None]


class Models:
    """Bundles by id; all methods but ids() belong to the thread that computes.

    Only one flow is open, the last one used: weights of several would not fit small machines.

    Raises:
        FlowshipError: a bundle cannot be opened, or the engine cannot run it.
    """

    def __init__(self, bundles: Sequence[str | None], choice: EngineChoice) -> None:
        self._choice, self._bundles = choice, dict[str, Bundle]()
        self._flow: Flow | None = None
        self._open: tuple[str, str] | None = None
        try:
            for path in bundles or [None]:
                self._add(Bundle.open(path))
            self.infos = tuple(map(self._describe, self._bundles))
        except BaseException:
            self.close()
            raise

    def ids(self) -> tuple[str, ...]:
        """The first is the default."""
        return tuple(self._bundles)

    def flow(self, bundle: str | None, precision: str | None) -> Flow:
        """The flow of a bundle and precision, opened if another one is.

        Raises:
            UsageError: no such bundle or precision.
        """
        name = self.ids()[0] if bundle is None else bundle
        if name not in self._bundles:
            raise UsageError(f"there is no bundle {name[:80]!r}: GET /api/bundles lists them")
        return self._flow_of(name, precision)

    def close(self) -> None:
        """Free everything."""
        self._close_flow()
        for bundle in self._bundles.values():
            bundle.close()

    def _add(self, bundle: Bundle) -> None:
        name = "embedded" if bundle.root == EMBEDDED.resolve() else bundle.sha256
        if name in self._bundles:
            bundle.close()
            raise UsageError(f"the bundle {bundle.manifest.name} is named twice")
        self._bundles[name] = bundle

    def _flow_of(self, name: str, precision: str | None) -> Flow:
        bundle, choice = self._bundles[name], self._choice
        wanted = precision or (choice.precision if name == self.ids()[0] else None)
        chosen = choose_precision(bundle, choice.engine, wanted)
        if self._flow is None or self._open != (name, chosen):
            self._close_flow()
            self._flow = Flow.open(
                bundle.root,
                engine=choice.engine,
                precision=chosen,
                threads=choice.threads,
                device=choice.device,
            )
            self._open = name, chosen
        return self._flow

    def _close_flow(self) -> None:
        if self._flow is not None:
            self._flow.close()
        self._flow = self._open = None

    def _describe(self, name: str) -> BundleInfo:
        flow = self._flow_of(name, None)
        bundle, spec, info = self._bundles[name], flow.spec, flow.engine.info
        there = bundle.manifest.precisions[made_for(self._choice.engine)]
        precisions = (info.precision, *(p for p in there if p != info.precision))
        denoised = tuple(p for p in precisions if can_denoise(bundle, self._choice.engine, p))
        numbers = (f"class {i}" for i in range(spec.num_classes))
        return BundleInfo(
            id=name,
            name=bundle.manifest.name,
            sha256=bundle.sha256,
            bytes=bundle.nbytes,
            width=spec.image.img_size,
            height=spec.image.img_size,
            channels=spec.image.in_channels,
            classes=spec.class_names or tuple(numbers),
            num_classes=spec.num_classes,
            precisions=precisions,
            guidance=spec.guidance is not None,
            denoise=info.precision in denoised,
            denoise_precisions=denoised,
            training_noise={"kind": spec.training_noise.kind, "std": spec.training_noise.std},
            num_blocks=len(spec.ar_blocks),
            num_patches=spec.image.num_patches,
            patch_size=spec.image.patch_size,
            patch_dim=spec.image.patch_dim,
            num_parameters=bundle.manifest.source.num_parameters,
            licence=bundle.manifest.source.licence,
            source_file=bundle.manifest.source.file,
            engine={
                "name": info.name,
                "version": info.version,
                "device": info.device,
                "precision": info.precision,
                "threads": info.threads,
            },
        )


def can_denoise(bundle: Bundle, engine: str, precision: str) -> bool:
    """Whether the model can denoise, and there is a vector-Jacobian graph for every block."""
    manifest, own = bundle.manifest, made_for(engine)
    return manifest.spec.denoise is not None and all(
        manifest.find(own, precision, "vjp", block.name) for block in manifest.spec.ar_blocks
    )
