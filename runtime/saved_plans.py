"""Plans that ``flowship plan --save`` measured on this device, one small JSON file each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .atomic import atomic_file
from .errors import BundleError
from .plan import Plan
from .schema import from_json, parse_json, to_json
from .user_folders import make_user_folder, user_folder

FOLDER = "plans"


@dataclass(frozen=True)
class SavedPlan:
    """What one device, engine and precision runs one bundle best with.

    Attributes:
        bundle_sha256, engine, engine_version, precision, device: what it was measured with.
        threads, spinning: of the engine's thread pool.
        plan: windows and tolerance.
        seconds, guided_seconds: of one picture without and with guidance, the median of those that
            were timed; the sum of its calls where a whole one takes too long to be.
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


def plans_folder() -> Path | None:
    """``$XDG_CONFIG_HOME/flowship/plans``, by default in ~/.config; None where there is no home."""
    return user_folder("settings", FOLDER)


def make_plans_folder() -> Path:
    """The folder, made where it is not there: before measuring, whether a plan can be saved at all.

    Raises:
        UsageError: it cannot be written to; the message names the variable that helps.
    """
    return make_user_folder("settings", FOLDER)


def _file_name(bundle_sha256: str, engine: str, precision: str, device: str) -> str:
    words = [bundle_sha256[:16], engine, precision, device]
    return re.sub(r"[^A-Za-z0-9.-]", "_", "-".join(words)) + ".json"


def save_plan(saved: SavedPlan) -> Path:
    """Write it for the next runs on this device; returns the file.

    Raises:
        UsageError: as make_plans_folder().
    """
    name = _file_name(saved.bundle_sha256, saved.engine, saved.precision, saved.device)
    path = make_plans_folder() / name
    with atomic_file(path) as file:
        file.write((json.dumps(to_json(saved), indent=1, allow_nan=False) + "\n").encode())
    return path


def load_saved_plan(
    bundle_sha256: str, engine: str, precision: str, device: str
) -> SavedPlan | None:
    """The plan of this combination; None where none was saved, or none can be found or read.

    Raises:
        BundleError: the file is damaged; the message names it.
    """
    folder = plans_folder()
    if folder is None:
        return None
    path = folder / _file_name(bundle_sha256, engine, precision, device)
    try:
        text = path.read_text("utf-8")
    except OSError:  # a home that this user may not enter, or none, has no plans
        return None
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is damaged ({error}): remove it and plan again") from error
    saved = from_json(SavedPlan, parse_json(text, str(path)), str(path))
    if saved.bundle_sha256 != bundle_sha256:
        raise BundleError(f"{path} is the plan of another bundle: remove it and plan again")
    return saved
