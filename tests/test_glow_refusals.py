"""What of GLOW cannot be exported, and what has to be said: each with its reason and its flag."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glow_checkpoints import SIGMOID, SIZED, chai, nf, oai, open_glow, openai_variables, ros, y0
from tf_files import write_checkpoint

from flowship.export.families.glow import (
    GlowFlags,
    is_glow,
    parse_image_size,
    port_of,
    weight_arrays,
)
from flowship.runtime.errors import CheckpointError, UsageError

State = dict[str, Any]
FIRST = "flow.layers.1."


# ---- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "flags", "missing"),
    [
        (ros, GlowFlags(), r"2 levels of 2 affine steps for 3 channels.*--image-size HxW "
            r"\(multiples of 4\), --n-bits"),
        (ros, GlowFlags(image_size=(8, 8)), "has to be said: --n-bits N"),
        (oai, GlowFlags(n_bits=8), "has to be said: --image-size HxW"),
        (nf, GlowFlags(), r"has to be said: --scale-map sigmoid\|exp"),
        (partial(nf, bases="glow", affine=False), GlowFlags(), "has to be said: --image-size"),
    ],
)  # fmt: skip
def test_what_files_do_not_say_is_asked_for(
    make: Callable[[Path], Path], flags: GlowFlags, missing: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=missing):
        open_glow(make(tmp_path / "model.pt"), flags)


@pytest.mark.parametrize(
    ("make", "base", "right", "wrong", "reason"),
    [
        (ros, SIZED, {"scale_map": "sigmoid"}, {"scale_map": "exp"}, "--scale-map exp cannot be"),
        (ros, SIZED, {"leaky_slope": 0.0}, {"leaky_slope": 0.1}, "rosinality always has relu"),
        (ros, SIZED, {"data_shift": True}, {"data_shift": False}, r"data in \[-0.5, 0.5\]"),
        (ros, SIZED, {"weights": "plain"}, {"weights": "ema"}, "saves no moving averages"),
        (chai, GlowFlags(), {"n_bits": 8}, {"n_bits": 5}, "--n-bits 5 cannot be"),
        (chai, GlowFlags(), {"data_shift": False}, {"data_shift": True}, "--data-shift yes cannot"),
        (chai, GlowFlags(), {"image_size": (8, 16)}, {"image_size": (16, 8)}, "of 8x16 pictures"),
        (y0, GlowFlags(), {"image_size": (8, 16)}, {"image_size": (8, 8)}, "prior_h is that of"),
        (y0, GlowFlags(), {"scale_map": "sigmoid"}, {"scale_map": "exp"}, "y0ast always has sig"),
        (nf, SIGMOID, {"image_size": (8, 16)}, {"image_size": (8, 8)}, "those of 8x16 pictures"),
        (nf, SIGMOID, {"n_bits": 8}, {"n_bits": 5}, "normflows always has 8"),
        (partial(nf, affine=False), GlowFlags(), {"scale_map": "sigmoid"}, {"scale_map": "exp"},
            "--scale-map exp cannot be"),
        (oai, SIZED, {"weights": "plain"}, {"weights": "ema"}, "it holds no moving averages"),
    ],
)  # fmt: skip
def test_a_flag_that_is_known_may_be_repeated_but_not_contradicted(
    make: Callable[[Path], Path],
    base: GlowFlags,
    right: dict[str, Any],
    wrong: dict[str, Any],
    reason: str,
    tmp_path: Path,
) -> None:
    path = make(tmp_path / "model.pt")
    open_glow(path, replace(base, **right))
    with pytest.raises(UsageError, match=reason):
        open_glow(path, replace(base, **wrong))


def test_moving_averages_alone_are_not_plain_weights(tmp_path: Path) -> None:
    averages = {f"{n}/ExponentialMovingAverage": v for n, v in openai_variables().items()}
    path = write_checkpoint(tmp_path / "only", averages)
    with pytest.raises(UsageError, match="--weights plain cannot be: it holds moving averages"):
        open_glow(path, replace(SIZED, weights="plain"))


def test_what_nobody_says_is_said_to_be_assumed(tmp_path: Path) -> None:
    path = nf(tmp_path / "model.pt")
    assert len(open_glow(path, SIGMOID).config.assumptions) == 2
    said = replace(SIGMOID, leaky_slope=0.0, data_shift=False)
    assert open_glow(path, said).config.assumptions == ()


@pytest.mark.parametrize("size", [(6, 8), (8, 18)])
def test_pictures_that_levels_cannot_halve(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not multiples of 4, as 2 levels need"):
        open_glow(ros(tmp_path / "model.pt"), GlowFlags(image_size=size, n_bits=5))


def test_values_of_flags() -> None:
    assert parse_image_size("64") == (64, 64) and parse_image_size("32x48") == (32, 48)
    for text in ("", "x", "3x", "-4", "4x5x6", "1e3", "999999"):
        with pytest.raises(UsageError, match="--image-size"):
            parse_image_size(text)
    wrong: list[dict[str, Any]] = [
        {"image_size": (0, 8)},
        {"n_bits": 9},
        {"n_bits": 0},
        {"scale_map": "tanh"},
        {"leaky_slope": -0.1},
        {"leaky_slope": float("nan")},
        {"weights": "best"},
    ]
    for flags in wrong:
        with pytest.raises(UsageError, match="--" + next(iter(flags)).replace("_", "-")):
            GlowFlags(**flags)


# ---- what was not saved --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [chai, y0])
def test_permutations_that_were_not_saved(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path / "a.pt", permutation="shuffle")
    with pytest.raises(CheckpointError, match=r"'shuffle' in hparams\.json: the random"):
        open_glow(path)
    (tmp_path / "hparams.json").unlink()
    with pytest.raises(CheckpointError, match=r"no hparams\.json beside it says flow_permutation"):
        open_glow(path)
    path = make(tmp_path / "b.pt", permutation="lu")
    hparams = (tmp_path / "hparams.json").read_text().replace("invconv", "reverse")
    (tmp_path / "hparams.json").write_text(hparams)
    with pytest.raises(CheckpointError, match=r"'reverse' in hparams\.json, but a 1x1"):
        open_glow(path)
    make(tmp_path / "c.pt", permutation="reverse")
    hparams = (tmp_path / "hparams.json").read_text().replace("reverse", "invconv")
    (tmp_path / "hparams.json").write_text(hparams)
    with pytest.raises(CheckpointError, match="but no 1x1 convolution is stored"):
        open_glow(tmp_path / "c.pt")


def test_a_sidecar_one_folder_above_counts(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    path = chai(folder / "save_1k0.pkg", permutation="reverse")
    (folder / "hparams.json").rename(tmp_path / "hparams.json")
    assert open_glow(path).config.levels[0].steps
    (tmp_path / "hparams.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"hparams\.json: not JSON"):
        open_glow(path)


def test_an_early_version_saved_half_of_its_lu(tmp_path: Path) -> None:
    def early(state: State) -> None:
        for name in [n for n in state if n.endswith(("invconv.p", "invconv.sign_s"))]:
            del state[name]

    with pytest.raises(CheckpointError, match=r"invconv\.p is missing: an early version"):
        open_glow(chai(tmp_path / "model.pkg", change=early))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("K", 3, "K is 3"), ("flow_coupling", "additive", "flow_coupling is additive"),
        ("image_shape", [16, 16, 3], "image_shape is")],
)  # fmt: skip
def test_a_sidecar_of_another_checkpoint(key: str, value: Any, said: str, tmp_path: Path) -> None:
    path = chai(tmp_path / "model.pkg")
    hparams = json.loads((tmp_path / "hparams.json").read_text())
    hparams["Glow"][key] = value
    (tmp_path / "hparams.json").write_text(json.dumps(hparams))
    with pytest.raises(CheckpointError, match=said):
        open_glow(path)


# ---- tensors -------------------------------------------------------------------------------------


def _set(name: str, value: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        stored = next(n for n in state if n.removeprefix("module.") == name)
        state[stored] = value(state[stored]) if callable(value) else value

    return change


def _drop(prefix: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for name in [n for n in state if n.removeprefix("module.").startswith(prefix)]:
            del state[name]

    return change


def _add(name: str) -> Callable[[State], None]:
    return lambda state: state.update({name: torch.zeros(2)})


WRONG: dict[str, tuple[Callable[..., Path], Callable[[State], None], str]] = {
    "actnorm that saw nothing": (
        ros,
        _set("blocks.1.flows.0.actnorm.initialized", torch.tensor(0, dtype=torch.uint8)),
        "never seen a picture",
    ),
    "normflows' actnorm that saw nothing": (
        nf,
        _set("flows.0.0.flows.2.data_dep_init_done", torch.tensor(0.0)),
        r"flows\.0\.0\.flows\.2\.data_dep_init_done is 0",
    ),
    "actnorm inside a network": (
        partial(nf, normed=True),
        _set("flows.0.0.flows.0.flows.1.param_map.net.4.actNorm.data_dep_init_done",
            torch.tensor(0.0)),
        r"net\.4\.actNorm\.data_dep_init_done is 0",
    ),
    "checkerboard": (
        nf,
        _set("flows.1.0.flows.0.flows.1.param_map.net.0.weight", torch.zeros(8, 12, 3, 3)),
        "a checkerboard split",
    ),
    "missing": (ros, _drop("blocks.0.prior.scale"), r"blocks\.0\.prior\.scale is missing"),
    "a missing step": (ros, _drop("blocks.1.flows.1."), r"blocks\.1\.flows\.1 is missing"),
    "a missing layer": (y0, _drop("flow.layers.2."), r"flow\.layers\.2 is missing"),
    "a missing split": (chai, _drop("flow.layers.3."), r"flow\.layers"),
    "a missing block": (partial(nf, depths=(3, 1)), _drop("flows.1.1."), r"flows\.1\.1 is missing"),
    "a missing base": (nf, _drop("q0.1."), "1 base distributions .* for 2 levels"),
    "missing prior_h": (y0, _drop("prior_h"), "prior_h is missing"),
    "unknown": (ros, _add("module.blocks.0.extra"), r"blocks\.0\.extra is not part of a GLOW of"),
    "unknown y0ast": (y0, _add("flow.extra"), r"flow\.extra is not part"),
    "unknown normflows": (nf, _add("q0.0.temperature"), r"q0\.0\.temperature is not part"),
    "shape": (
        ros,
        _set("blocks.0.flows.0.coupling.net.2.weight", torch.zeros(8, 8, 3, 3)),
        r"has the shape \(8, 8, 3, 3\), expected \(8, 8, 1, 1\)",
    ),
    "rows": (
        ros,
        _set("blocks.0.flows.0.coupling.net.4.conv.weight", torch.zeros(7, 8, 3, 3)),
        r"7 rows, expected 12 \(affine\) or 6 \(additive\)",
    ),
    "odd channels": (
        ros,
        _set("blocks.0.flows.0.actnorm.loc", torch.zeros(1, 13, 1, 1)),
        "13 channels, expected a multiple of 4",
    ),
    "channels that do not grow": (
        nf,
        _set("flows.0.0.flows.2.s", torch.zeros(1, 12, 1, 1)),
        "12 channels, expected 24: each level squeezes",
    ),
    "prior_h of other channels": (
        chai,
        _set("prior_h", torch.zeros(2, 12, 2, 4)),
        r"prior_h has the shape \(2, 12, 2, 4\), expected \(2, 48, 2, 4\)",
    ),
    "prior_h that is not zero": (y0, _set("prior_h", lambda t: t + 1), "not zero everywhere"),
    "quantized": (
        ros,
        _set("blocks.0.flows.0.coupling.net.0.weight", torch.zeros(8, 6, 3, 3, dtype=torch.int8)),
        "has the type int8, expected float32",
    ),
    "base of other channels": (nf, _set("q0.0.loc", torch.zeros(1, 12, 2, 4)), r"q0\.0\.loc"),
    "bases of two sizes": (
        nf,
        lambda s: s.update({n: torch.zeros(1, 24, 4, 4) for n in ("q0.0.loc", "q0.0.log_scale")}),
        "pictures of different sizes: 8x16, 16x16",
    ),
    "bases of two counts of classes": (
        partial(nf, bases="classes"),
        lambda s: s.update({n: torch.zeros(24, 2, 4, 5) for n in ("q0.0.loc", "q0.0.log_scale")}),
        r"know \[3, 5\] classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tensors_are_named(case: str, tmp_path: Path) -> None:
    make, change, reason = WRONG[case]
    path = make(tmp_path / "model.pt", change=change)
    flags = SIZED if make is ros else GlowFlags(scale_map="sigmoid")
    with pytest.raises(CheckpointError, match=reason):
        open_glow(path, flags)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model/0/1/f1/l_1/W": None}, "0/1/f1/l_1/W is missing"),
        ({"model/1/1/actnorm_center/b": np.zeros((1, 1, 1, 25), np.float32)}, "has the shape"),
        ({"model/extra/W": np.zeros(3, np.float32)}, "extra/W is not part of a GLOW of openai"),
        ({"model/0/0/other": np.zeros(3, np.float32)}, "0/0/other is not part"),
        ({"model/pool0/conv/b": None}, "pool0/conv/b is missing"),
    ],
)
def test_wrong_variables_are_named(changes: State, reason: str, tmp_path: Path) -> None:
    found = {n: v for n, v in (openai_variables() | changes).items() if v is not None}
    with pytest.raises(CheckpointError, match=reason):
        open_glow(write_checkpoint(tmp_path / "model.ckpt", found), SIZED)


def test_indices_that_are_no_permutation(tmp_path: Path) -> None:
    found = openai_variables(permutation="shuffle")
    found["model/0/0/shuffle/indices"] = np.zeros(12, np.int32)
    model = open_glow(write_checkpoint(tmp_path / "model.ckpt", found), SIZED)
    with pytest.raises(CheckpointError, match="model/0/0/shuffle/indices is not a permutation"):
        list(weight_arrays(model))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("blocks.0.flows.1.coupling.net.0.bias", float("nan"), "8 of 8 values of .* are NaN"),
        ("blocks.0.flows.1.actnorm.scale", 0.0, "step 1 of level 0 cannot be inverted"),
        ("blocks.1.prior.scale", 40.0, "beyond the range of float32 after folding"),
    ],
)
def test_weights_that_cannot_be_used(name: str, value: float, reason: str, tmp_path: Path) -> None:
    change = _set(name, lambda t: torch.full_like(t, value))
    model = open_glow(ros(tmp_path / "model.pt", change=change), SIZED)
    with pytest.raises(CheckpointError, match=reason):
        list(weight_arrays(model))


# ---- files ---------------------------------------------------------------------------------------


def test_wrappers_and_other_contents_are_left_out(tmp_path: Path) -> None:
    def wrap(state: State) -> None:
        tensors = {f"model.module.{n}": t for n, t in state.items()}
        state.clear()
        state.update({"state_dict": tensors, "epoch": 3, "ema.decay": torch.tensor(0.9)})

    model = open_glow(y0(tmp_path / "model.ckpt", change=wrap))
    assert list(weight_arrays(model))


def test_two_models_in_a_file(tmp_path: Path) -> None:
    def twice(state: State) -> None:
        tensors = dict(state)
        state.clear()
        state.update({"model": tensors, "ema": dict(tensors)})

    with pytest.raises(CheckpointError, match=r"several models in one file, under 'model\.'"):
        open_glow(y0(tmp_path / "model.pt", change=twice))


def test_ports_are_known_by_their_names() -> None:
    assert port_of(["module.blocks.0.flows.1.invconv.w_p"]) == "rosinality"
    assert port_of(["graph.flow.layers.1.f.0.weight"]) == "chaiyujin"
    assert port_of(["flow.layers.1.block.0.conv.weight"]) == "y0ast"
    assert port_of(["flows.0.0.flows.0.flows.1.param_map.net.0.weight"]) == "normflows"
    assert port_of(["Variable", "model/0/0/f1/l_1/W"]) == "openai"
    assert not is_glow(["var", "blocks.0.pos_embed", "blocks.0.attn_blocks.0.mlp.main.0.weight"])
    assert not is_glow(["xflows.0.0.flows.0.flows.1.param_map_", "blocks.0.flow.actnorm"])
