"""Plans that ``flowship plan --save`` measured on this device, one small JSON file each."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .atomic import atomic_file
from .errors import BundleError
from .plan import Plan
from .schema import from_json, parse_json, to_json


@dataclass(frozen=True)
class SavedPlan:
    """What one device, engine and precision runs one bundle best with.

    Attributes:
        bundle_sha256, engine, engine_version, precision, device: what it was measured with.
        threads, spinning: of the engine's thread pool.
        plan: windows and tolerance.
        seconds, guided_seconds: predicted time of one picture.
    """

    bundle_sha256: str
    engine: str
    engine_version: str
    precision: str
    device: str
    threads: int
    spinning: bool
    plan: Plan
    seconds: float
    guided_seconds: float


def plans_folder() -> Path:
    """``$XDG_CONFIG_HOME/flowship/plans``, by default in ~/.config."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "flowship" / "plans"


def saved_plan_path(bundle_sha256: str, engine: str, precision: str, device: str) -> Path:
    """Where the plan of a combination lies, whether or not there is one."""
    words = [bundle_sha256[:16], engine, precision, device]
    return plans_folder() / (re.sub(r"[^A-Za-z0-9.-]", "_", "-".join(words)) + ".json")


def save_plan(saved: SavedPlan) -> Path:
    """Write it for the next runs on this device; returns the file."""
    path = saved_plan_path(saved.bundle_sha256, saved.engine, saved.precision, saved.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(to_json(saved), indent=1, allow_nan=False) + "\n").encode())
    return path


def load_saved_plan(
    bundle_sha256: str, engine: str, precision: str, device: str
) -> SavedPlan | None:
    """The plan of this combination; None where none was saved.

    Raises:
        BundleError: the file is damaged; the message names it.
    """
    path = saved_plan_path(bundle_sha256, engine, precision, device)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    saved = from_json(SavedPlan, parse_json(text, str(path)), str(path))
    if saved.bundle_sha256 != bundle_sha256:
        raise BundleError(f"{path} is the plan of another bundle: remove it and plan again")
    return saved
