"""GLOW's two graphs: ``decode`` (latents to data) and ``encode`` (the way back).

Both read one set of weights. Latents go in and come out as standard normal draws; what a class adds
to a prior is a product with its one-hot row: graphs of conditional models take one input more.
"""

from __future__ import annotations

from ...graph import Network, Value
from .model import GlowConfig, LevelSpec, StepSpec

CONDITION = "condition"
"""Input [N, classes] of a conditional model's graphs: one in the column of the label, else zero."""


def emit_decode(config: GlowConfig) -> Network:
    """Inputs eps0 [N, C, H, W] to eps{L-1} (and ``condition``); output ``x`` [N, C, H, W]."""
    g = Network("decode")
    eps = [g.input(name, ("N", *shape)) for name, shape in config.latent_shapes.items()]
    condition = _condition(g, config)
    x: Value | None = None
    for i in reversed(range(len(config.levels))):
        level = config.levels[i]
        z = _unstandardize(g, config, i, eps[i], x, condition)
        x = z if x is None else g.concat([x, z], 1)
        for k in reversed(range(len(level.steps))):
            x = _decode_step(g, config, f"level{i}.step{k}.", level, level.steps[k], x)
        x = g.pixel_shuffle(x, 2)
    assert x is not None
    g.output("x", x)
    return g


def emit_encode(config: GlowConfig) -> Network:
    """Input ``x`` [N, C, H, W] (and ``condition``); outputs eps0 to eps{L-1}, and ``logdet`` [N].

    ``logdet`` is log |d eps / dx| as a mean over the D values, in nats, without what all pictures
    share (GlowModel.logdet_constant).
    """
    g = Network("encode")
    x = g.input("x", ("N", config.in_channels, config.height, config.width))
    condition = _condition(g, config)
    terms: list[Value] = []  # of -logdet
    last = len(config.levels) - 1
    for i, level in enumerate(config.levels):
        x = g.pixel_unshuffle(x, 2)
        shrunk: Value | None = None  # -log s of all steps, for each value: one mean a level
        for k, step in enumerate(level.steps):
            x, minus_log_s = _encode_step(g, config, f"level{i}.step{k}.", level, step, x)
            if minus_log_s is not None:
                shrunk = minus_log_s if shrunk is None else g.add(shrunk, minus_log_s)
        if shrunk is not None:
            terms.append(_share(g, config, shrunk, level.channels // 2, level))
        kept, z = (None, x) if i == last else g.halves(x, 1)
        eps, log_std = _standardize(g, config, i, z, kept, condition)
        if log_std is not None:
            channels = config.latent_shapes[f"eps{i}"][0]
            terms.append(_share(g, config, log_std, channels, level))
        g.output(f"eps{i}", eps)
        x = x if kept is None else kept
    if not terms:  # volume-preserving steps and fixed priors: everything is in the constant
        terms.append(g.mean(g.mul(x, 0.0), (1, 2, 3)))
    total = terms[0]
    for term in terms[1:]:
        total = g.add(total, term)
    g.output("logdet", g.mul(total, -1.0))
    return g


# ---- steps -------------------------------------------------------------------------------------


def _decode_step(
    g: Network, config: GlowConfig, prefix: str, level: LevelSpec, step: StepSpec, x: Value
) -> Value:
    a, b = g.halves(x, 1)
    u, t = _network(g, config, prefix, level, step, a)
    if u is not None:
        b = g.mul(b, _inverse_scale(g, step, u))
    b = g.sub(b, t)
    return _mix(g, f"{prefix}unmix.", level, g.concat([a, b], 1))


def _encode_step(
    g: Network, config: GlowConfig, prefix: str, level: LevelSpec, step: StepSpec, x: Value
) -> tuple[Value, Value | None]:
    """x, and -log s [N, C / 2, H, W] where the coupling scales."""
    a, b = g.halves(_mix(g, f"{prefix}mix.", level, x), 1)
    u, t = _network(g, config, prefix, level, step, a)
    b = g.add(b, t)
    minus_log_s = None
    if u is not None:
        b = g.mul(b, _scale(g, step, u))
        minus_log_s = _minus_log_scale(g, step, u)
    return g.concat([a, b], 1), minus_log_s


def _scale(g: Network, step: StepSpec, u: Value) -> Value:
    """s(u)."""
    if step.scale_map == "sigmoid":
        return g.apply("sigmoid", u)
    return _reciprocal(g, step, u)


def _inverse_scale(g: Network, step: StepSpec, u: Value) -> Value:
    """1 / s(u)."""
    if step.scale_map == "sigmoid_inv":
        return g.apply("sigmoid", u)
    return g.apply("exp", u) if step.scale_map == "exp" else _reciprocal(g, step, u)


def _reciprocal(g: Network, step: StepSpec, u: Value) -> Value:
    """exp(-u), or 1 / sigmoid(u) = 1 + exp(-u)."""
    e = g.apply("exp", g.mul(u, -1.0))
    return e if step.scale_map == "exp" else g.add(e, 1.0)


def _minus_log_scale(g: Network, step: StepSpec, u: Value) -> Value:
    """-log s(u), without the logarithm of what may have underflowed."""
    if step.scale_map == "exp":
        return u
    plus = g.apply("softplus", g.mul(u, -1.0))  # -log sigmoid(u)
    return plus if step.scale_map == "sigmoid" else g.mul(plus, -1.0)


def _network(
    g: Network, config: GlowConfig, prefix: str, level: LevelSpec, step: StepSpec, a: Value
) -> tuple[Value | None, Value]:
    """u, where the coupling scales, and t."""
    C, w, mapped = level.channels, step.width, config.border == "map"
    h = _conv(g, f"{prefix}conv1.", a, w, 3, mapped)
    h = _conv(g, f"{prefix}conv2.", _activation(g, config, h), w, 1)
    h = _bordered(g, config, _activation(g, config, h))
    if not step.is_affine:
        return None, _conv(g, f"{prefix}conv3.", h, C // 2, 3, mapped)
    return g.halves(_conv(g, f"{prefix}conv3.", h, C, 3, mapped), 1)


def _activation(g: Network, config: GlowConfig, x: Value) -> Value:
    return g.leaky_relu(x, config.slope) if config.slope else g.apply("relu", x)


def _bordered(g: Network, config: GlowConfig, x: Value) -> Value:
    """A border of ones is one of zeros around x - 1; the weights know of it."""
    return g.sub(x, 1.0) if config.border == "ones" else x


def _mix(g: Network, prefix: str, level: LevelSpec, x: Value) -> Value:
    return _conv(g, prefix, x, level.channels, 1)


def _conv(g: Network, prefix: str, x: Value, rows: int, kernel: int, mapped: bool = False) -> Value:
    """With a bias for each row, or for each place of it."""
    _, columns, H, W = x.shape
    assert isinstance(columns, int) and isinstance(H, int) and isinstance(W, int)
    weight = g.weight(f"{prefix}weight", (rows, columns, kernel, kernel))
    if mapped:
        bias = g.weight(f"{prefix}bias", (rows, H, W))
        return g.add(g.conv(x, weight, padding=kernel // 2), bias)
    return g.conv(x, weight, g.weight(f"{prefix}bias", (rows,)), padding=kernel // 2)


def _share(g: Network, config: GlowConfig, values: Value, channels: int, level: LevelSpec) -> Value:
    """[N] sum over ``channels`` at all places, divided by D; the values may be [N, channels, 1, 1].

    As a mean with a factor: the sum over a large picture is beyond float16.
    """
    count = channels * level.height * level.width
    return g.mul(g.mean(values, (1, 2, 3)), count / config.num_values)


# ---- priors ------------------------------------------------------------------------------------


def _condition(g: Network, config: GlowConfig) -> Value | None:
    return g.input(CONDITION, ("N", config.num_classes)) if config.num_classes else None


def _unstandardize(
    g: Network, config: GlowConfig, i: int, eps: Value, kept: Value | None, condition: Value | None
) -> Value:
    """z = m + exp(q) eps."""
    prior = config.levels[i].prior
    if prior.kind == "standard":
        return eps
    if prior.kind == "fixed":
        mean, std = (_fixed(g, config, i, name) for name in ("mean", "std"))
    else:
        mean, log_std = _prior(g, config, i, kept, condition)
        std = g.apply("exp", log_std)
    return g.add(g.mul(eps, std), mean)


def _standardize(
    g: Network, config: GlowConfig, i: int, z: Value, kept: Value | None, condition: Value | None
) -> tuple[Value, Value | None]:
    """eps = (z - m) exp(-q), and q where it differs from picture to picture."""
    prior = config.levels[i].prior
    if prior.kind == "standard":
        return z, None
    if prior.kind == "fixed":
        mean, inverse = (_fixed(g, config, i, name) for name in ("mean", "inverse_std"))
        return g.mul(g.sub(z, mean), inverse), None
    mean, log_std = _prior(g, config, i, kept, condition)
    inverse = g.apply("exp", g.mul(log_std, -1.0))
    return g.mul(g.sub(z, mean), inverse), log_std


def _fixed(g: Network, config: GlowConfig, i: int, name: str) -> Value:
    return g.weight(f"level{i}.prior.{name}", prior_shape(config, i))


def _prior(
    g: Network, config: GlowConfig, i: int, kept: Value | None, condition: Value | None
) -> tuple[Value, Value]:
    """m and q."""
    prefix, level = f"level{i}.prior.", config.levels[i]
    if level.prior.kind == "conv":
        assert kept is not None
        h = _bordered(g, config, kept)
        return g.halves(_conv(g, prefix, h, level.channels, 3, config.border == "map"), 1)
    assert condition is not None
    n, H, W = prior_shape(config, i)
    table = g.weight(f"{prefix}table", (2 * n * H * W, config.num_classes))
    return g.halves(g.reshape(g.linear(condition, table), ("N", 2 * n, H, W)), 1)


def prior_shape(config: GlowConfig, i: int) -> tuple[int, int, int]:
    n, H, W = config.latent_shapes[f"eps{i}"]
    return (n, H, W) if config.levels[i].prior.spatial else (n, 1, 1)
