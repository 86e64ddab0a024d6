"""Run a command and leave in a file what it took, with all that it started.

A small process of its own: the peak that the system counts of a child begins with that of
whoever started it.

usage: python -S -m benchmarks.launched LIMIT REPORT COMMAND...
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Run it; stop it when the seconds are over."""
    limit, report, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    started = time.perf_counter()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status: int | None = process.wait(limit)
    except subprocess.TimeoutExpired:
        status = None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wall = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "gigabytes": usage.ru_maxrss / 2**20,
        "status": status,
    }
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
