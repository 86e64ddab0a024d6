"""Contenders in processes of their own that step when they are told to, in turn.

So one load of the machine hits all of them alike. The half that steps needs nothing but the
standard library, for other environments run it too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parent.parent
WARM = 3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def take_turns(step: Callable[[], object]) -> None:
    """Step once per line of standard input, and say how long it took and the peak so far."""
    for _ in range(WARM):
        step()
    CLEAR.write_text("5")  # forgets the peak of what came before
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        found = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "gigabytes": _peak(),
        }
        print(json.dumps(found), flush=True)


def _peak() -> float:
    line = next(row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


class Contender:
    """A process that takes turns.

    Args:
        command: Its interpreter, module and arguments; it runs in the root of the checkout.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while (line := self._answer()) != "ready":
            print(line)

    def step(self) -> dict[str, Any]:
        """What one step took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._answer())
        return found

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended: exit {self._process.wait()}")
        return line.strip()


def ran(command: Sequence[str], *, limit: float, folder: Path) -> dict[str, Any]:
    """What one process took with all that it started: seconds, processor time, peak.

    Args:
        command: Runs in the root of the checkout.
        limit: Seconds after which it is stopped.
        folder: Where it may leave what it does not clean up.

    Returns:
        Also ``output``, what it printed, and ``failed``, why it has no result.
    """
    report = folder / ".took"
    launch = [sys.executable, "-S", "-m", "benchmarks.launched", str(limit), str(report)]
    done = subprocess.run(
        [*launch, *command],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    found: dict[str, Any] = {"output": done.stdout, **json.loads(report.read_text())}
    status = found.pop("status")
    if status is None:
        found["failed"] = f"over {limit:.0f} s"
    elif status:
        found["failed"] = (done.stdout.strip().splitlines() or ["?"])[-1][:120]
    return found
