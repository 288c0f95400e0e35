"""``flowship serve`` computes what the command line and Python do."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal
from laptop_server import Running, b64, named, running_server
from PIL import Image

from flowship.runtime import Flow
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.pictures import read_picture


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow.open(threads=1) as flow:
        yield flow


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A colour picture of another size than the model's."""
    levels = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def _floats(text: str, *shape: int) -> Any:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def test_status_and_bundles(server: Running, flow: Flow) -> None:
    status = server.ask("GET", "/api/status", token=None)
    assert status.json["name"] == "flowship" and status.json["token_required"] is True
    found = server.ask("GET", "/api/bundles").json
    (bundle,) = found["bundles"]
    assert (bundle["id"], bundle["sha256"]) == ("embedded", flow.bundle.sha256)
    assert bundle["classes"] == list(flow.spec.class_names)
    assert bundle["precisions"] == ["fp32"] and bundle["engine"]["name"] == "onnx"
    assert found["limits"]["images"] == 64


def test_pictures_are_those_of_the_command_line(server: Running, flowship: Terminal) -> None:
    flowship.ok("generate", "--seed", "7,11", "--label", "sneaker,bag", "--guidance", "1.5",
                "--separate", "--threads", 1, "-q")  # fmt: skip
    answer = server.post("generate", seeds=["7", "11"], labels=[7, 8], guidance=1.5)
    events = answer.events
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [name for name, _ in events]
    assert names[:2] == ["queued", "started"] and names[-3:] == ["picture", "picture", "done"]
    pictures = named(events, "picture")
    for seed, picture in zip((7, 11), pictures, strict=True):
        data = base64.b64decode(picture["png"])
        assert data == Path(f"fashion-mnist-{seed}.png").read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            assert image.text["flowship"] == picture["recipe"]
            assert base64.b64decode(picture["pixels"]["data"]) == image.tobytes()
    progress = named(events, "progress")
    assert [p["fraction"] for p in progress] == sorted(p["fraction"] for p in progress)
    assert all(len(p["previews"]) == 2 for p in progress)
    recipe = json.loads(pictures[0]["recipe"])
    again = server.post("generate", seeds=["7"], labels=[7], guidance=1.5, plan=recipe["plan"])
    assert len(named(again.events, "picture")) == 1


def test_encode_and_score(server: Running, flow: Flow, png: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png)
    image = read_picture(tmp_path / "x.png", flow.spec.image)[None]
    z, logdet = flow.encode(image, label=[3])
    (found,) = named(server.post("encode", image={"file": b64(png)}, label=3).events, "encoded")
    assert np.array_equal(_floats(found["z"], *found["shape"]), z[0])
    assert found["logdet"] == logdet[0]
    pixels = found["input"]
    raw = {key: pixels[key] for key in ("width", "height", "channels", "data")}
    (same,) = named(server.post("encode", image=raw, label=3).events, "encoded")
    assert same["z"] == found["z"]
    for noise in ("none", "train"):
        (scored,) = named(
            server.post("score", image=raw, label=3, noise=noise, noise_seed="5").events, "scored"
        )
        expected = flow.log_likelihood(image, label=[3], noise=noise, noise_seed=5)
        assert scored["bits_per_dim"] == expected.bits_per_dim[0]
        assert scored["convention"] == expected.convention
    # The latent gives the picture back.
    events = server.post("decode", latents=found["z"], input="z", labels=[3]).events
    (picture,) = named(events, "picture")
    levels = [
        np.frombuffer(base64.b64decode(p["data"]), np.uint8) for p in (pixels, picture["pixels"])
    ]
    assert np.abs(levels[0].astype(int) - levels[1]).max() <= 1


def test_decode_and_interpolate(server: Running, flow: Flow, flowship: Terminal) -> None:
    noise = flow.generate(seed=4).noise
    events = server.post("decode", latents=b64(noise.tobytes()), denoise=True).events
    assert named(events, "denoising") and len(named(events, "picture")) == 1
    flowship.ok(
        "interpolate", "--seeds", "3,9", "--steps", 4, "--label", "bag,coat", "--threads", 1
    )
    events = server.post(
        "interpolate", first={"seed": "3"}, last={"seed": "9"}, steps=4, labels=[8, 4]
    ).events
    pictures = named(events, "picture")
    assert [picture["index"] for picture in pictures] == [0, 1, 2, 3]
    with Image.open("interpolation.png") as image:
        strip = np.asarray(image)
    for i, picture in enumerate(pictures):
        levels = np.frombuffer(base64.b64decode(picture["pixels"]["data"]), np.uint8)
        assert np.array_equal(levels.reshape(28, 28), strip[:, 30 * i : 30 * i + 28])
    z = b64((noise * np.sqrt(flow.bundle.array("var"))).astype("<f4").tobytes())
    image_end = {"image": pictures[0]["pixels"]}
    mixed = server.post("interpolate", first={"z": z}, last=image_end, steps=2).events
    assert len(named(mixed, "picture")) == 2


def test_a_bundle_without_denoising_graphs(tmp_path: Path) -> None:
    """It says so in its list, and refuses before anything is computed."""
    bundle = tmp_path / "plain.flowship"
    shutil.copytree(EMBEDDED, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["role"] != "vjp"]
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with running_server(str(bundle), None) as server:
        plain, embedded = server.ask("GET", "/api/bundles").json["bundles"]
        assert (plain["denoise"], plain["denoise_precisions"]) == (False, [])
        assert (embedded["denoise"], embedded["denoise_precisions"]) == (True, ["fp32"])
        for route, body in (("generate", {"seeds": ["1"]}), ("decode", {"latents": ""})):
            events = server.post(route, bundle=plain["id"], denoise=True, **body).events
            assert [name for name, _ in events] == ["queued", "error"]
            assert events[-1][1]["kind"] == "usage"
            assert "has no denoising graphs for onnx fp32" in events[-1][1]["message"]
