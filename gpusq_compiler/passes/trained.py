"""From a training result back to the model and to the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.ir import edit
from gpusq_compiler.passes.base import Cell, Finding

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.train.job import TrainJob, TrainResult


def require(job: TrainJob, result: TrainResult) -> None:
    """Refuse a result in which nothing was trained.

    Raises:
        TrainingError: No tensor of the job has a gradient.
    """
    names = [name for group in job.groups for name in group.names]
    reasons = [result.frozen[name] for name in names if name in result.frozen]
    if names and len(reasons) == len(names):
        raise TrainingError(
            f"none of its {len(names)} tensors can be trained, the first because of {reasons[0]}",
            where=f"tensor '{names[0]}'",
            remedy="Leave the pass out, or choose losses that these tensors reach",
        )


def write_back(model: ir.Model, job: TrainJob, result: TrainResult) -> tuple[str, ...]:
    """Give the model the best iterate, masks applied; say which tensors it changed."""
    changed = []
    for name, array in result.values.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None
        kept = np.where(job.masks[name], array, 0) if name in job.masks else array
        if not np.array_equal(kept, value.const_value.numpy()):
            edit.replace_weight(value, kept)
            changed.append(name)
    return tuple(changed)


def feature_rows(job: TrainJob, result: TrainResult) -> list[dict[str, Cell]]:
    """What each critical layer differed by on held-out samples, and what weight it had."""
    best = [step for step, _ in result.held_out].index(result.best_step)
    rows: list[dict[str, Cell]] = []
    for name in job.features:
        losses = result.looks.get(f"feature/{name}")
        if losses is not None:
            weight = job.factors.get(name, 1.0)
            row: dict[str, Cell] = {"tensor": name, "weight": weight}
            rows.append({**row, "before": losses[0], "after": losses[best]})
    return rows


def look_rows(result: TrainResult) -> list[dict[str, Cell]]:
    """The held-out loss and its terms at every look, the start included."""
    rows: list[dict[str, Cell]] = [
        {"step": step, "held_out": loss} for step, loss in result.held_out
    ]
    terms = {name: seen for name, seen in result.looks.items() if _is_term(name)}
    for index, row in enumerate(rows):
        row.update({name: float(seen[index]) for name, seen in terms.items()})
    return rows


def _is_term(name: str) -> bool:
    """Whether a series is a term of the loss, not the loss itself or one critical layer."""
    return name != "loss" and "/" not in name


def findings(job: TrainJob, result: TrainResult) -> list[Finding]:
    """What could not be trained, and whether training helped."""
    found = [
        Finding(rule="no-gradient", where=name, reason=reason)
        for name, reason in result.frozen.items()
    ]
    if result.best_step == 0 and job.steps:
        found.append(
            Finding(
                rule="no-improvement",
                where="model",
                reason=f"{job.steps} steps did not lower the loss on held-out samples; "
                "the starting point is kept",
            )
        )
    return found
