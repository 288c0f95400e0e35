"""The process of a command: signals that end it, closed and broken streams, other encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Terminal

from flowship.benchmarks import cold_start
from flowship.benchmarks.contender import Subject
from flowship.benchmarks.grid import Case
from flowship.runtime import EngineError, Flow, UsageError, cli, program
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.program import Interrupted, Interrupter

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and closed streams of POSIX")

RUN = "import sys; from flowship.apps.launcher import main; sys.exit(main())"
# A program that says on stdout when the first of its pictures is being made.
BEGUN = """
import sys
from flowship.runtime import flow, program

def begun(self, *rest, **named):
    for event in events(self, *rest, **named):
        if event.__class__.__name__ == "Progress":
            print("begun\\n" * (not said), end="", flush=True)
            said.append(event)
        yield event

said, events = [], flow.Flow._events
flow.Flow._events = begun
sys.exit(program.run())
"""
# One whose command line takes until a line comes on stdin to be imported.
IMPORTING = """
import sys

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "flowship.runtime.cli":
            print("importing", flush=True)
            sys.stdin.readline()

sys.meta_path.insert(0, Slow())
from flowship.apps.launcher import main
sys.exit(main())
"""
# And one that has ended but for what Python does last.
ENDING = """
import atexit, sys

def wait():
    print("ending", flush=True)
    sys.stdin.readline()

atexit.register(wait)
from flowship.apps.launcher import main
sys.exit(main())
"""
LONG = ("generate", "-n", "500", "-o", "x.png")


def _defaults() -> None:
    """A shell's background jobs ignore Ctrl-C, and their children after them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _start(
    code: str, *words: str, cwd: Path, before: Callable[[], Any] = _defaults, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


# ---- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "cancelled"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated")],
)
def test_signals_leave_nothing_behind(number: signal.Signals, word: str, tmp_path: Path) -> None:
    """Sent twice, as shells and timeout(1) do; the bundle is a zip, unpacked to where TMPDIR is."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in EMBEDDED.rglob("*"):
            archive.write(path, path.relative_to(EMBEDDED))
    (tmp_path / "unpacked").mkdir()
    command, *options = LONG
    words = (command, "x.zip", *options)
    with _start(BEGUN, *words, cwd=tmp_path, TMPDIR=str(tmp_path / "unpacked")) as process:
        assert _first_line(process) == "begun\n"
        assert list((tmp_path / "unpacked").iterdir())
        process.send_signal(number)
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out) == (128 + number, "")
    assert err.splitlines()[-1] == f"flowship generate: {word}"
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["unpacked", "x.zip"]


def test_nohup_is_heeded(tmp_path: Path) -> None:
    def nohup() -> None:
        _defaults()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with _start(BEGUN, *LONG, cwd=tmp_path, before=nohup) as process:
        assert _first_line(process) == "begun\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_while_modules_are_imported(number: signal.Signals, tmp_path: Path) -> None:
    with _start(IMPORTING, "devices", cwd=tmp_path) as process:
        assert _first_line(process) == "importing\n"
        process.send_signal(number)
        out, err = process.communicate()
    word = "cancelled" if number == signal.SIGINT else "terminated"
    assert (process.returncode, out, err) == (128 + number, "", f"flowship: {word}\n")


def test_signals_when_all_is_done(tmp_path: Path) -> None:
    with _start(ENDING, "--version", cwd=tmp_path) as process:
        assert _first_line(process).startswith("flowship ")
        assert _first_line(process) == "ending\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate("\n") == ("", "")
    assert process.returncode == 0


def test_serve_stops_when_its_terminal_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    words = ("serve", "--port", "0", "--no-browser", "--threads", "1")
    with _start(RUN, *words, cwd=tmp_path) as process:
        url, _, token = _first_line(process).strip().partition("#token=")
        body = json.dumps({"seeds": [str(i) for i in range(64)], "guidance": 1.0, "labels": [7]})
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}api/generate", body.encode(), headers)
        with urllib.request.urlopen(request) as answer:
            assert answer.readline() == b"event: queued\n"
            process.send_signal(signal.SIGHUP)
            assert b"the server was stopped" in answer.read()  # said, not cut off
        _, err = process.communicate()
    assert (process.returncode, err.splitlines()[-1]) == (0, "flowship serve: stopped")


def test_a_repeat_soon_after_is_the_same_news() -> None:
    now = 100.0
    interrupter = Interrupter(lambda: now)

    def raised_by(number: int) -> bool:
        try:
            interrupter(number, None)
        except Interrupted as error:
            return interrupter.raised is error and error.number == number
        return False

    assert raised_by(signal.SIGTERM)
    now += program.REPEAT / 2
    assert not raised_by(signal.SIGTERM)
    now += program.REPEAT * 1.1  # whoever asks again after that means it
    assert raised_by(signal.SIGINT)


def test_what_a_library_makes_of_an_interruption_is_not_believed(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_an_import(*_: object, **__: object) -> Flow:
        raise EngineError("onnxruntime is not installed")

    monkeypatch.setattr(Flow, "open", half_an_import)
    assert "not installed" in flowship.refused("generate", status=1)
    monkeypatch.setattr(program.interrupter, "raised", Interrupted(signal.SIGTERM))
    assert flowship.refused("generate", status=143) == "flowship generate: terminated\n"


# What torch and scipy do while they are imported, for seconds.
SWALLOWING = """
import os, signal, sys
from flowship.runtime import flow, program

def careless(*given, **named):
    try:
        os.kill(os.getpid(), int(os.environ["NUMBER"]))
    except:
        pass
    return opened(*given, **named)

opened = flow.Flow.open
flow.Flow.open = careless
sys.exit(program.run())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [LONG, (*LONG, "-q")], ids=["", "quiet"])
def test_a_signal_that_a_library_swallowed(
    number: signal.Signals, words: tuple[str, ...], tmp_path: Path
) -> None:
    with _start(SWALLOWING, *words, cwd=tmp_path, NUMBER=str(int(number))) as process:
        out, err = process.communicate()
    word = "cancelled" if number == signal.SIGINT else "terminated"
    assert (process.returncode, out) == (128 + number, "")
    assert err == f"flowship generate: {word}\n"
    assert not list(tmp_path.iterdir())


def test_calling_main_leaves_the_signals_alone(flowship: Terminal) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    flowship.ok("devices")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_cold_start_ends_with_who_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def interrupted() -> str:
        raise Interrupted(signal.SIGTERM)

    class Popen(subprocess.Popen[str]):
        def __init__(self, command: list[str], **named: Any) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(3600)"], **named)
            assert self.stdout
            self.stdout.close()
            self.stdout = SimpleNamespace(  # type: ignore[assignment]
                readline=interrupted, close=lambda: None
            )
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    case = Case(0, "onnx", "fp32", "cpu", 1, 1, 0.0)
    with pytest.raises(Interrupted):
        cold_start.cold_start(None, case, Subject())
    assert started[0].returncode == -signal.SIGKILL


# ---- streams ------------------------------------------------------------------------------------


def _run(*words: str, cwd: Path, code: str = RUN, **named: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **named.pop("env", {})}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **named}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=cwd, env=environment, text=True, check=False, **given)


def test_closed_streams_take_nothing_into_files(tmp_path: Path) -> None:
    """Else the picture gets the number of stdout, and what is printed goes into it."""

    def close_all() -> None:
        for number in (0, 1, 2):
            os.close(number)

    words = ("generate", "--seed", "7", "--guidance", "2", "--threads", "1", "-o")
    assert _run(*words, "a.png", cwd=tmp_path, preexec_fn=close_all).returncode == 0
    assert _run(*words, "b.png", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert _run("generate", "--threads", "0", cwd=tmp_path, preexec_fn=close_all).returncode == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["inspect", "inspect --json", "devices --json", "--help"])
def test_a_reader_that_went_away(words: str, unbuffered: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = _run(*words.split(), cwd=tmp_path, stdout=writing, env={"PYTHONUNBUFFERED": unbuffered})
    os.close(writing)
    swallowed = words == "--help" and unbuffered  # by argparse
    assert (ran.returncode, ran.stderr) == (0 if swallowed else 1, "")


def test_work_goes_on_where_nobody_reads_the_notes(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = _run("generate", "--guidance", "2", "-o", "x.png", cwd=tmp_path, stderr=writing)
    os.close(writing)
    assert (ran.returncode, ran.stdout) == (0, "x.png\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    for unbuffered in ("", "1"):
        with open("/dev/full", "w") as full:
            ran = _run("devices", cwd=tmp_path, stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
        said = "flowship devices: stdout: No space left on device\n"
        assert (ran.returncode, ran.stderr) == (1, said)


def test_names_that_stdout_cannot_spell(tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "cp1252"}
    ran = _run("generate", "-q", "-o", "模é.png", cwd=tmp_path, env=environment, encoding="cp1252")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "\\u6a21é.png\n", "")
    assert (tmp_path / "模é.png").exists()
    words = ("score", "embedded", "模é.png", "nowhere-模.png", "--json")
    ran = _run(*words, cwd=tmp_path, env=environment, encoding="cp1252")
    assert ran.returncode == 2 and "nowhere-\\u6a21.png does not exist" in ran.stderr
    ran = _run(*words[:3], "--json", cwd=tmp_path, env=environment, encoding="ascii")
    assert json.loads(ran.stdout)["images"][0]["name"] == "模é.png"


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    ran = _run("generate", "-q", "-o", name, cwd=tmp_path, encoding="utf-8")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "caf\\udce9.png\n", "")
    ran = _run("score", "embedded", name, "--json", cwd=tmp_path, encoding="utf-8")
    assert os.fsencode(json.loads(ran.stdout)["images"][0]["name"]) == b"caf\xe9.png"
    (tmp_path / os.fsdecode(b"caf\xe9")).symlink_to(EMBEDDED, target_is_directory=True)
    ran = _run("inspect", os.fsdecode(b"nowhere\xe9"), cwd=tmp_path, encoding="utf-8")
    assert ran.returncode == 1 and "nowhere\\udce9 does not exist" in ran.stderr


# ---- errors that nobody expected ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("no words"), "no words"),
        (PermissionError(13, "Permission denied", "x/y"), "x/y: Permission denied"),
        (MemoryError(), "out of memory"),
        (UsageError("one\n  two"), "one two"),
        (KeyError("x"), "KeyError: 'x': this is a mistake of flowship, FLOWSHIP_TRACEBACK=1 shows"),
        (RecursionError("too deep"), "RecursionError: too deep: this is a mistake of flowship"),
        (UnicodeEncodeError("ascii", "模.png", 0, 1, "no"), "'模.png' has letters that ascii"),
        (ModuleNotFoundError("No", name="uvicorn.main"), "pip install 'flowship[serve]'"),
        (ImportError("libcudart.so.12: not found"), "is broken: libcudart.so.12: not found"),
    ],
)
def test_every_error_is_one_line(
    error: Exception, line: str, flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Flow:
        raise error

    monkeypatch.setattr(Flow, "open", fail)
    monkeypatch.delenv(cli.TRACEBACK)
    said = flowship.refused("generate", status=2 if isinstance(error, UsageError) else 1)
    assert said.startswith("flowship generate: ") and line in said
    if "mistake" in line:
        monkeypatch.setenv(cli.TRACEBACK, "1")
        with pytest.raises(type(error)):
            cli.main(["generate"])
