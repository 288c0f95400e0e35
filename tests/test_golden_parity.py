"""Every array that the reference implementation computed is reproduced from exported bundles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import CONDITIONAL, UNCONDITIONAL, Exporter, GoldenModel, golden_model

from flowship.runtime import Flow
from flowship.runtime.images import psnr_db

FP32_TOLERANCE = 1e-4  # max_abs_error; about 1e-6 is reached
FP16_PSNR_DB = 50.0

# What the arrays of the golden files were made with.
DECODE_OPTIONS: dict[str, dict[str, Any]] = {
    "x_g0": {},
    "x_g1.5": {"guidance": 1.5},
    "x_g1.5_annealed": {"guidance": 1.5, "annealed": True},
    "x_g1.5_a": {"guidance": 1.5, "guide_what": "a"},
    "x_g1.5_b": {"guidance": 1.5, "guide_what": "b"},
    "x_g1.5_temp0.7": {"guidance": 1.5, "attn_temp": 0.7},
    "x_g1.5_annealed_temp0.7": {"guidance": 1.5, "annealed": True, "attn_temp": 0.7},
    "x_g0.8_temp0.5": {"guidance": 0.8, "attn_temp": 0.5},
    "x_g0_denoised": {"denoise": True},
}
OTHERS = {"noise", "labels", "image", "z", "logdet", "bits_per_dim_256"}


def _check(flow: Flow, golden: GoldenModel) -> None:
    decoded = set(golden.arrays) - OTHERS
    assert decoded <= set(DECODE_OPTIONS)
    for name in sorted(decoded):
        options = DECODE_OPTIONS[name]
        images = flow.decode(golden.arrays["noise"], label=golden.labels, **options)
        np.testing.assert_allclose(
            images, golden.arrays[name], rtol=0, atol=FP32_TOLERANCE, err_msg=name
        )
    z, logdet = flow.encode(golden.arrays["image"], label=golden.labels)
    np.testing.assert_allclose(z, golden.arrays["z"], rtol=0, atol=FP32_TOLERANCE)
    np.testing.assert_allclose(logdet, golden.arrays["logdet"], rtol=0, atol=FP32_TOLERANCE)
    found = flow.log_likelihood(golden.arrays["image"], label=golden.labels)
    wanted = golden.arrays["bits_per_dim_256"]
    np.testing.assert_allclose(found.bits_per_dim, wanted, rtol=0, atol=FP32_TOLERANCE)


def test_onnx(golden: GoldenModel, exported: Exporter) -> None:
    with Flow.open(exported(golden.checkpoint)) as flow:
        _check(flow, golden)


def test_onnx_core_form(golden: GoldenModel, exported: Exporter) -> None:
    bundle = exported(golden.checkpoint, onnx_form="core", windows=(1, 4))
    with Flow.open(bundle) as flow:
        _check(flow, golden)


@pytest.mark.parametrize("name", [CONDITIONAL, UNCONDITIONAL])
def test_executorch(name: str, exported: Exporter) -> None:
    golden = golden_model(name)
    bundle = exported(golden.checkpoint, ("onnx", "executorch", "coreml"))
    with Flow.open(bundle, engine="executorch") as flow:
        _check(flow, golden)


@pytest.mark.parametrize("name", [CONDITIONAL, UNCONDITIONAL])
def test_coreml_interpreter(name: str, exported: Exporter) -> None:
    golden = golden_model(name)
    bundle = exported(golden.checkpoint, ("onnx", "executorch", "coreml"))
    with Flow.open(bundle, engine="coreml-interpreter") as flow:
        for array in set(golden.arrays) - OTHERS - {"x_g0_denoised"}:
            options = DECODE_OPTIONS[array]
            images = flow.decode(golden.arrays["noise"], label=golden.labels, **options)
            assert psnr_db(images, golden.arrays[array]) > FP16_PSNR_DB, array


def test_onnx_fp16(golden: GoldenModel, exported: Exporter) -> None:
    with Flow.open(exported(golden.checkpoint, ("onnx",), ("fp16",))) as flow:
        for array in set(golden.arrays) - OTHERS:
            options = DECODE_OPTIONS[array]
            images = flow.decode(golden.arrays["noise"], label=golden.labels, **options)
            assert psnr_db(images, golden.arrays[array]) > FP16_PSNR_DB, array
