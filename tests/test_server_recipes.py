"""Pictures of the server: made again by the command line, and kept where others are NaN."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal
from laptop_server import Running

from flowship.apps.server import client_example
from flowship.runtime import Flow
from flowship.runtime.flow import draw_noise


def test_steps_between_two_seeds_are_made_again(server: Running, flowship: Terminal) -> None:
    ends = {"first": {"seed": "3"}, "last": {"seed": "18446744073709551615"}}
    events = server.post("interpolate", **ends, steps=3, labels=[8, 4], guidance=1).events
    pictures = [data for name, data in events if name == "picture"]
    assert len(pictures) == 3
    for picture in pictures[1:]:
        Path("x.png").write_bytes(base64.b64decode(picture["png"]))
        flowship.ok("generate", "--like", "x.png", "-o", "y.png", "--threads", 1, "-q")
        assert Path("y.png").read_bytes() == Path("x.png").read_bytes()


def test_one_nan_loses_no_other_picture(server: Running) -> None:
    with Flow.open(threads=1) as flow:
        noise = draw_noise([1, 2, 3], flow.spec)
        alone = flow.decode(noise[2:])
    noise[1, 10] = 3e38
    latents = base64.b64encode(noise.astype("<f4").tobytes()).decode()
    events = server.post("decode", latents=latents).events
    pictures = [data for name, data in events if name == "picture"]
    assert [picture["index"] for picture in pictures] == [0, 2]
    levels = np.frombuffer(base64.b64decode(pictures[1]["pixels"]["data"]), np.uint8)
    expected = np.rint((np.clip(alone[0, 0], -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
    np.testing.assert_array_equal(levels.reshape(28, 28), expected)
    name, data = events[-1]
    assert (name, data["kind"]) == ("error", "non_finite")
    assert "1 of 3 pictures failed: given noise 1 gave NaN" in data["message"]


def test_the_example_client_writes_no_other_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.png").write_bytes(b"mine")
    for words, message in ((["-o", "x.jpg"], "name a file that ends in .png"), ([], "is there")):
        monkeypatch.setattr("sys.argv", ["client", "http://127.0.0.1:1/#token=x", *words])
        with pytest.raises(SystemExit) as ended:
            client_example.main()
        assert ended.value.code == 2 and message in capsys.readouterr().err
