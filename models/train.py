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
from tasks import Digits, Photos, Task, Text, load

from gpusq_compiler.runtime.session import Session
from gpusq_compiler.train.job import ParameterGroup, TrainJob, TrainResult
from gpusq_compiler.train.loop import OrtTrainer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = Path(__file__).parent
THREADS = 2
WEIGHT_DECAY = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How one network is trained."""

    task: Task
    steps: int
    learning_rate: float
    batch_size: int = 64


PLANS: Mapping[str, Plan] = {
    "vit_digits": Plan(task=Digits(), steps=3000, learning_rate=3e-3),
    "resnet_digits": Plan(task=Digits(), steps=800, learning_rate=3e-3),
    "sr_photos": Plan(task=Photos(), steps=1500, learning_rate=2e-3, batch_size=16),
    "text_python": Plan(task=Text(), steps=1000, learning_rate=2e-3, batch_size=32),
}


def job_of(name: str, steps: int, seed: int, workdir: Path) -> TrainJob:
    """The training of one network, in its training form."""
    plan = PLANS[name]
    data, held_out = plan.task.samples(np.random.default_rng(seed))
    student = build(name, seed=seed, training=True)
    return TrainJob(
        student=student,
        teacher=None,
        terms=(plan.task.loss,),
        groups=groups_of(student, plan.learning_rate),
        data=data,
        held_out=held_out,
        steps=steps,
        batch_size=plan.batch_size,
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
    return session({"x": load("digits", "train")["x"]})


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
    session = Session(model, threads=THREADS)
    print(
        f"{out.name}: {steps} steps in {time.monotonic() - started:.0f} s, best after "
        f"{result.best_step}, test {PLANS[options.name].task.score(session)}"
    )


if __name__ == "__main__":
    main()
