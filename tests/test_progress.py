"""Progress in its three forms: live, plain, JSON."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import pty
import re
import struct
import subprocess
import termios
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from gpusq_compiler import progress
from gpusq_compiler.progress import JsonEvents, LiveEvents, Pace, PlainEvents, json_line
from gpusq_compiler.runtime.events import Silent
from tests import shell

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.runtime.events import Events

ONE_SHOT = ("model.onnx", "--passes", "prune,quantize", "--data", "data.npz")
TRAINED = ("model.onnx", "--passes", "prune,qat", "--data", "data.npz", "--steps", "12")
JSON = ("--log-format", "json")


class Clock:
    """Time that goes on when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(events: Events, clock: Clock, steps: int = 30) -> None:
    """A pass of so many steps, one a second."""
    events.score("dense", "accuracy", 0.99)
    events.enter("qat", 2, 3)
    events.begin("qat-blocks", steps)
    for step in range(1, steps + 1):
        clock.now += 1
        events.advance(step, loss=1 / step)
    events.end()
    events.leave("qat", changed=5, left_alone=1, seconds=30.25)
    events.score("qat", "accuracy", 0.9875)
    events.note("a line <with> [markup]")


def lines(text: str) -> list[dict[str, Any]]:
    """Every line of a text as an object."""
    return [json.loads(line) for line in text.splitlines()]


def test_the_time_left_follows_from_the_pace() -> None:
    clock = Clock()
    pace = Pace(10, clock)
    assert pace.left(4) is None, "a resumed task may start anywhere"
    clock.now += 6
    assert pace.left(6) == pytest.approx(3 * 4)
    clock.now += 6
    assert pace.left(10) == 0


def test_a_line_is_due_after_a_while_and_at_the_end() -> None:
    clock = Clock()
    pace = Pace(10, clock)
    assert not pace.due(1, 5.0)
    clock.now += 5
    assert pace.due(2, 5.0)
    assert not pace.due(3, 5.0)
    assert pace.due(10, 5.0)


def test_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    run(PlainEvents(clock), clock)
    out, err = capfd.readouterr()
    assert not out
    wanted = [
        r"dense: accuracy 0\.9900",
        r"\[2/3\] qat-blocks: 10 of 30, loss 0\.1, 20 s left, \d+ MB",
        r"\[2/3\] qat-blocks: 20 of 30, loss 0\.05, 10 s left, \d+ MB",
        r"\[2/3\] qat-blocks: 30 of 30, loss 0\.03333, \d+ MB",
        r"\[2/3\] qat: 5 changed, 1 left alone, 30\.2 s, \d+ MB",
        r"\[2/3\] qat: accuracy 0\.9875",
        r"a line <with> \[markup\]",
    ]
    found = err.splitlines()
    assert len(found) == len(wanted)
    for pattern, line in zip(wanted, found, strict=True):
        assert re.fullmatch(f"gpusq: {pattern}", line), line


def test_a_short_task_without_figures_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    events = PlainEvents()
    events.begin("calibrate", 2)
    events.advance(1)
    events.advance(2)
    events.end()
    assert capfd.readouterr() == ("", "")


def test_json_lines(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    run(JsonEvents(clock), clock, steps=3)
    out, err = capfd.readouterr()
    assert not out
    found = lines(err)
    assert [line["event"] for line in found] == [
        *("score", "pass-start", "task-start", "step", "step", "step"),
        *("task-end", "pass-end", "score", "note"),
    ]
    assert all(line["memory_mb"] > 1 and line["elapsed_s"] >= 0 for line in found)
    dense, start, _, first, second, third, _, end, score, note = found
    assert (dense["pass"], dense["after"], dense["value"]) == (None, "dense", 0.99)
    assert (start["pass"], start["number"], start["of"]) == ("qat", 2, 3)
    assert first["eta_s"] is None
    assert second["eta_s"] == 1
    assert second | {"memory_mb": 0} == {
        "event": "step", "pass": "qat", "task": "qat-blocks", "step": 2, "of": 3,
        "loss": 0.5, "eta_s": 1.0, "elapsed_s": 2.0, "memory_mb": 0,
    }  # fmt: skip
    assert third["eta_s"] == 0
    assert (end["changed"], end["left_alone"], end["seconds"]) == (5, 1, 30.25)
    assert end["peak_memory_mb"] >= end["memory_mb"] * 0.99  # counted in other units
    assert (score["metric"], score["value"]) == ("accuracy", 0.9875)
    assert note["text"] == "a line <with> [markup]"


def test_json_says_a_step_once_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    events = JsonEvents(clock)
    events.begin("qat", 1000)
    for step in range(1, 1001):
        clock.now += 0.125  # eighths add up exactly
        events.advance(step, loss=1.0)
    steps = [line["step"] for line in lines(capfd.readouterr().err) if line["event"] == "step"]
    assert steps == list(range(8, 1001, 8))


def test_a_number_that_is_none_is_null() -> None:
    text = json_line("step", loss=float("nan"), eta_s=float("inf"), step=3, text="ü\n")
    assert json.loads(text) == {
        "event": "step", "loss": None, "eta_s": None, "step": 3, "text": "ü\n",
    }  # fmt: skip
    assert "\n" not in text


def test_the_live_line_shows_everything() -> None:
    clock = Clock()
    events = LiveEvents(clock)
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    events._console = events._progress.live.console = screen
    events.score("dense", "accuracy", 0.99)
    events.enter("qat", 2, 3)
    events.begin("qat-blocks", 30)
    clock.now += 1
    events.advance(1, loss=0.5)
    clock.now += 65
    events.advance(2, loss=0.25)
    events._progress.refresh()
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for said in ("[2/3] qat-blocks", "2/30", "loss 0.25", "30:20 left", "accuracy 0.9900"):
        assert said in text
    assert re.search(r"\d+ MB", text)
    events.end()
    events.leave("qat", changed=5, left_alone=1, seconds=30.25)
    events.note("[2] <b>")
    events.close()
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "5 changed, 1 left alone, 30.2 s" in text
    assert "gpusq: [2] <b>" in text


def test_a_task_without_a_pass_leaves_nothing_behind() -> None:
    events = LiveEvents()
    events.begin("compare", 3)
    assert events._progress.live.is_started
    events.end()
    assert not events._progress.live.is_started


def test_quiet_watches_nothing() -> None:
    with progress.watching(quiet=True, log_format="json") as events:
        assert type(events) is Silent


def test_without_a_terminal_lines_are_plain() -> None:
    with progress.watching(quiet=False) as events:
        assert isinstance(events, PlainEvents)


def test_a_compile_in_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = shell.call([*ONE_SHOT, *JSON], capfd)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "model.gpusq.onnx"
    found = lines(outcome.err)
    steps = ["canonicalize", "prune", "quantize", "freeze"]
    for event in ("pass-start", "pass-end"):
        assert [line["pass"] for line in found if line["event"] == event] == steps
    report = shell.report_of(folder)
    scores = {line["after"]: line["value"] for line in found if line["event"] == "score"}
    assert scores == pytest.approx(report["quality"]["after"], rel=1e-5)
    ended = {line["pass"]: line for line in found if line["event"] == "pass-end"}
    for step in report["passes"]:
        assert ended[step["pass"]]["changed"] == len(step["changed"])
    tasks = [line["task"] for line in found if line["event"] == "task-start"]
    assert tasks == [line["task"] for line in found if line["event"] == "task-end"]
    assert "calibrate" in tasks


@pytest.mark.training
def test_training_in_json_with_logs(folder: Path) -> None:
    # A process of its own: the test runner's own handlers would take the logs.
    outcome = shell.spawn(shell.words("compile", *TRAINED, *JSON, "-v"), folder)
    assert outcome.code == 0, outcome.err
    found = lines(outcome.err)
    last = [line for line in found if line["event"] == "step" and line["task"] == "qat"][-1]
    assert last["pass"] == "qat"
    assert last["step"] == last["of"]
    assert last["loss"] > 0
    assert last["eta_s"] == 0
    logs = [line for line in found if line["event"] == "log"]
    assert {log["level"] for log in logs} == {"info"}
    assert any("qat" in log["text"] for log in logs)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("--log-format json no.onnx --passes prune", 6, "no.onnx"),
        ("--log-format=json model.onnx --passes prun", 2, "Did you mean prune?"),
        ("model.onnx --no-such-option --log-format json", 2, "No such option"),
        ("model.onnx --passes prune --data no.npz -q --log-format=json", 6, "no.npz"),
    ],
)
def test_errors_in_json(
    arguments: str,
    code: int,
    says: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    outcome = shell.call(arguments.split(), capfd)
    assert outcome.code == code
    assert not outcome.out
    *_, error = lines(outcome.err)
    assert (error["event"], error["exit_code"]) == ("error", code)
    assert says in error["message"]


def test_no_such_format(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = shell.call([*ONE_SHOT, "--log-format", "xml"], capfd)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("gpusq: error: ")
    assert "'json'" in line


def test_a_log_record_is_one_line() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "f", 1, "x %s\ny", ("<",), None)
    text = progress.JsonFormatter().format(record)
    assert json.loads(text) == {
        "event": "log", "level": "warning", "logger": "a.b", "text": "x <\ny",
    }  # fmt: skip
    assert "\n" not in text


def on_a_terminal(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout, and what a terminal on stderr was sent."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {**shell.environment(), "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=slave, text=True
    ) as process:
        os.close(slave)
        sent = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # Linux says so when nobody holds the other end any more
                break
            if not chunk:
                break
            sent += chunk
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(master)
    return process.returncode, out, sent.decode()


@pytest.mark.parametrize("wrong", [False, True])
def test_a_terminal_is_left_as_it_was(folder: Path, wrong: bool) -> None:
    if wrong:
        arrays = shell.arrays()
        arrays["x"][:, 0] = 3e38  # finite, and the first product with it is not
        shell.save(folder / "data.npz", arrays)
    code, out, sent = on_a_terminal(shell.words("compile", *ONE_SHOT), folder)
    hidden, shown = sent.rfind("\x1b[?25l"), sent.rfind("\x1b[?25h")
    assert -1 < hidden < shown, "the cursor is back"
    if wrong:
        assert code == 1
        assert not out
        assert "gpusq: error: " in sent
    else:
        assert code == 0
        assert out.splitlines()[-1] == "model.gpusq.onnx", "stdout is not the terminal's"
        assert "[2/4] prune" in sent
    assert "Traceback" not in sent
