"""The stopwatch of the benchmarks: what it says of processes that work, fail and hang."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.contest import FLOOR, Entrant, contest
from benchmarks.turns import ran

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HANG = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while 1: pass'])"


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_work_is_counted_with_that_of_children(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    shell = ["sh", "-c", f'{sys.executable} -c "{burn}" && echo done']
    found = ran(shell, limit=60, folder=tmp_path)
    assert "failed" not in found
    assert found["output"] == "done\n"
    assert 0.3 <= found["cpu"] <= 3
    assert found["wall"] >= 0.25
    assert 0.001 < found["gigabytes"] < 1


def test_who_hangs_is_stopped_with_children(tmp_path: Path) -> None:
    found = ran(python(HANG), limit=0.7, folder=tmp_path)
    assert found["failed"] == "over 1 s"
    assert 0.7 <= found["wall"] < 20


def test_who_fails_says_why(tmp_path: Path) -> None:
    found = ran(python("raise ValueError('no such thing')"), limit=60, folder=tmp_path)
    assert found["failed"] == "ValueError: no such thing"


def entrant(program: str) -> Entrant:
    def command(folder: Path) -> Sequence[str]:
        return python(program.replace("OUT", str(folder / "out.onnx")))

    return Entrant(title="", command=command)


def test_a_contest(capsys: pytest.CaptureFixture[str]) -> None:
    writes = "open('OUT', 'w').write('x')"
    took = {"wall": 0.5, "cpu": 0.25}
    seen: list[str] = []

    def judge(file: Path) -> dict[str, str]:
        seen.append(file.read_text())
        return {"layers": "1 of 1"}

    found = contest(
        {
            FLOOR: entrant(f"{writes}; print('loaded')\nprint('{json.dumps(took)}')"),
            "good": entrant(writes),
            "empty": entrant("pass"),
            "broken": entrant("raise SystemExit(7)"),
        },
        rounds=2,
        limit=60,
        judge=judge,
    )
    assert (found[FLOOR]["wall"], found[FLOOR]["cpu"]) == (0.5, 0.25)
    assert found[FLOOR]["wall_floors"] == 1
    good = found["good"]
    assert good["layers"] == "1 of 1"
    assert "failed" not in good
    assert good["wall_floors"] == pytest.approx(good["wall"] / 0.5, abs=1e-3)
    assert found["empty"]["failed"] == "no file"
    assert "failed" in found["broken"]
    assert seen == ["x", "x"]
    lines = capsys.readouterr().out.splitlines()
    assert [sum(line.startswith(name) for line in lines) for name in found] == [2, 2, 1, 1]
