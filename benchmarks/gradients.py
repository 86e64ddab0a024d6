"""Write ``docs/gradients.md``: which operators train as they are, and which in the copy.

Every case runs in a process of its own, because some kill it.

usage: python -m benchmarks.gradients
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

from tests.train.operators import CASES
from tests.train.outcomes import bare, copy_of, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.train.operators import Case

DOCUMENT = Path(__file__).parents[1] / "docs" / "gradients.md"
HEAD = """# Gradients

What `qat` can train, on the CPU, with ONNX Runtime Training 1.19.2. The gradients of the input
and of all float constants are compared with central differences.
*As it is*: the runtime alone, fed with fixed sizes. *In the copy*: after the rewrites of
`gpusq_compiler/train/copy/rewrites.py`, which is what `qat` trains.

- **right**: equal to central differences
- **wrong**: trains something else, or has the wrong shape, without a word
- **no gradient**: refused; in the copy, parameters above it are frozen and listed
- **dies**: the process is killed

Made by `python -m benchmarks.gradients`.

| operator | as it is | in the copy |
| --- | --- | --- |
"""


def main() -> None:
    """Measure all cases."""
    rows = [
        f"| {name} | {_survived(bare, case)} | {_survived(_copied, case)} |"
        for name, case in sorted(CASES.items(), key=lambda item: item[0].lower())
    ]
    DOCUMENT.write_text(HEAD + "\n".join(rows) + "\n")


def _copied(case: Case) -> str:
    return outcome(copy_of(case), case)


def _survived(measure: Callable[[Case], str], case: Case) -> str:
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=lambda: answers.put(measure(case)))
    child.start()
    child.join()
    return "dies" if child.exitcode else str(answers.get())


if __name__ == "__main__":
    main()
