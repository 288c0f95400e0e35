"""What of a bundle is opened: the engine's artifacts, precision and plan."""

from __future__ import annotations

from dataclasses import replace

from .bundle import Bundle
from .errors import UsageError
from .plan import PLAN, Plan, PlanFile
from .spec import FlowSpec


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


def default_plan(bundle: Bundle, engine: str, precision: str) -> Plan:
    """The bundle's own plan, its tolerance not below the rounding of this engine and precision."""
    file = PlanFile.loads(bundle.path(PLAN).read_text("utf-8"))
    return replace(file.plan, tolerance=file.tolerance(made_for(engine), precision))


def check_blocks(plan: Plan, spec: FlowSpec) -> None:
    there = [block.name for block in spec.ar_blocks]
    named = {**plan.windows, **plan.guided_windows, **plan.min_committed}
    if unknown := [name[:40] for name in named if name not in there]:
        raise UsageError(
            f"the plan names {', '.join(unknown[:4])}, but the bundle has {', '.join(there)}: "
            "it was made for another one"
        )
