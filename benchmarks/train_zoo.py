"""Train every model of the zoo for a few steps and print what it took.

usage: python -m benchmarks.train_zoo [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests import zoo_models
from tests.train import zoo_check

HEAD = (
    "| model | float error | Q/DQ cosine | batch | s per step | peak GB "
    "| trained | still | frozen |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def main(names: list[str]) -> None:
    """Print one row per model, each as soon as it is measured."""
    sys.stdout.write(HEAD)
    for name in names or zoo_models.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            found = zoo_check.measure(zoo_models.path(name), Path(folder))
        frozen = "; ".join(sorted(set(found.frozen.values()))) or "none"
        sys.stdout.write(
            f"| {name} | {found.float_error:.1e} | {found.cosine:.6f} | {found.batch} "
            f"| {found.seconds:.3f} | {found.gigabytes:.1f} | {found.parameters} "
            f"| {len(found.still)} | {len(found.frozen)}: {frozen} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
