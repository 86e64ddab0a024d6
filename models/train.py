"""Makes a model of this folder again: ``python models/train.py vit_digits``.

The network is drawn in ONNX, trained with `gpusq_compiler.train`, and written with its weights
inside. The same command gives the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from architectures import NETWORKS, build, fill, parameters

from gpusq_compiler.runtime.session import Session
from gpusq_compiler.train.job import ParameterGroup, TrainJob, TrainResult
from gpusq_compiler.train.loop import OrtTrainer
from gpusq_compiler.train.losses import HardLabel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpusq_compiler.runtime.samples import Feeds

FOLDER = Path(__file__).parent
THREADS = 2
BATCH = 64
COPIES = 50
HELD_OUT_COPIES = 8
NOISE = 0.05
HELD_OUT = 2 * BATCH
"""Whole batches, because the training form of batch normalization looks at the batch."""
WEIGHT_DECAY = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How one network is trained."""

    steps: int
    learning_rate: float


PLANS: Mapping[str, Plan] = {
    "vit_digits": Plan(steps=3000, learning_rate=3e-3),
    "resnet_digits": Plan(steps=800, learning_rate=3e-3),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """Labelled digits in memory, readable by row as the trainer wants them."""

    x: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    has_labels: bool = True

    @property
    def count(self) -> int:
        """Number of digits."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        """Read these rows."""
        return {"x": self.x[rows], "labels": self.labels[rows]}

    @classmethod
    def load(cls, name: str) -> Digits:
        """Read ``train`` or ``test``."""
        with np.load(FOLDER / "digits" / f"{name}.npz") as stored:
            return cls(x=stored["x"], labels=stored["labels"])


def split(digits: Digits, rng: np.random.Generator) -> tuple[Digits, Digits]:
    """Put a tenth aside, never trained on, that chooses the best iterate."""
    order = rng.permutation(digits.count)
    held_out, kept = order[:HELD_OUT], order[HELD_OUT:]
    return (
        Digits(x=digits.x[kept], labels=digits.labels[kept]),
        Digits(x=digits.x[held_out], labels=digits.labels[held_out]),
    )


def enlarged(digits: Digits, copies: int, rng: np.random.Generator) -> Digits:
    """Copies of every digit, moved by up to one pixel each way and with a little noise."""
    rows = np.tile(np.arange(digits.count), copies)
    padded = np.pad(digits.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    side = digits.x.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    down, right = rng.integers(0, 3, (2, len(rows)))
    moved = windows[rows, :, down, right]
    noisy = moved + rng.normal(0, NOISE, moved.shape)
    return Digits(x=np.clip(noisy, 0, 1).astype(np.float32), labels=digits.labels[rows])


def job_of(name: str, steps: int, seed: int, workdir: Path) -> TrainJob:
    """The training of one network, in the form whose batch normalization learns."""
    rng = np.random.default_rng(seed)
    kept, held_out = split(Digits.load("train"), rng)
    student = build(name, seed=seed, batch_statistics=True)
    return TrainJob(
        student=student,
        teacher=None,
        terms=(HardLabel(),),
        groups=groups_of(student, PLANS[name].learning_rate),
        data=enlarged(kept, COPIES, rng),
        held_out=enlarged(held_out, HELD_OUT_COPIES, rng),
        steps=steps,
        batch_size=BATCH,
        workdir=workdir,
        seed=seed,
        threads=THREADS,
        label=name,
    )


def groups_of(model: ir.Model, learning_rate: float) -> tuple[ParameterGroup, ...]:
    """Matrices and kernels decay; biases, gains and positions do not."""
    values = parameters(model)
    decaying = tuple(n for n, v in values.items() if v.ndim > 1 and n.endswith(".weight"))
    rest = tuple(n for n in values if n not in decaying)
    return (
        ParameterGroup(names=decaying, learning_rate=learning_rate, weight_decay=WEIGHT_DECAY),
        ParameterGroup(names=rest, learning_rate=learning_rate),
    )


def shipped(name: str, job: TrainJob, result: TrainResult) -> ir.Model:
    """The inference form with what was learned and the statistics of the whole training set.

    One pass in training form over all training digits gives every batch normalization the mean
    and variance that it would have seen with all of them as one batch.
    """
    trained = {**parameters(job.student), **result.values}
    model = build(name)
    fill(model, trained)
    fill(job.student, trained)
    missing = [n for n in parameters(model) if n not in trained]
    fill(model, statistics(job.student, missing))
    return model


def statistics(model: ir.Model, names: Sequence[str]) -> Mapping[str, npt.NDArray[np.float32]]:
    """Means and variances by name, over the training digits as they are."""
    if not names:
        return {}
    session = Session(model, outputs=names, threads=THREADS, optimize=False)
    return session({"x": Digits.load("train").x})


def accuracy(model: ir.Model, digits: Digits) -> float:
    """Share of digits whose largest logit is the right one."""
    logits = Session(model, threads=THREADS)({"x": digits.x})["logits"]
    return float((logits.argmax(axis=1) == digits.labels).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write, say how good it is."""
    parser = argparse.ArgumentParser(description="Train one of the models in this folder.")
    parser.add_argument("name", choices=sorted(NETWORKS))
    parser.add_argument("--steps", type=int, help="default: what the shipped file took")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="default: models/NAME.onnx")
    options = parser.parse_args(arguments)
    steps = options.steps or PLANS[options.name].steps
    out = options.out or FOLDER / f"{options.name}.onnx"
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as workdir:
        job = job_of(options.name, steps, options.seed, Path(workdir))
        result = OrtTrainer().fit(job)
    model = shipped(options.name, job, result)
    ir.save(model, out)
    print(
        f"{out.name}: {steps} steps in {time.monotonic() - started:.0f} s, best after "
        f"{result.best_step}, test accuracy {accuracy(model, Digits.load('test')):.2%}"
    )


if __name__ == "__main__":
    main()
