"""Looking at the model while it is compiled: is it still the same, how good, how fast?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import PostconditionError
from gpusq_compiler.ir import claims
from gpusq_compiler.runtime.compare import compare
from gpusq_compiler.runtime.latency import interleaved, on_host
from gpusq_compiler.runtime.session import Session, refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from gpusq_compiler.calibration.evaluate import Evaluator
    from gpusq_compiler.passes.base import Context
    from gpusq_compiler.passes.pipeline import PassReport

LATENCY_BATCHES = (1, 32)
LATENCY_SECONDS = 1.0
SLOW = 500.0
"""Expected milliseconds of one round above which a larger batch is not measured: of each there
are six rounds at least."""
FEW = 2
"""Samples on which a pass that keeps the function is held to its word."""
SAME_FUNCTION = 1 - 1e-4
DENSE = "dense"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Median milliseconds of one batch on ONNX Runtime, both models run in turn."""

    batch: int
    dense: float
    compressed: float


class Watch:
    """Checks and scores the model after every pass.

    Args:
        dense: The model as it was read; not modified.
        ctx: Its data serve the checks.
        evaluator: The metric; None leaves the scores out.
        measure: Whether any model is run.

    Attributes:
        scores: Of the dense model; from the first lossy pass on, after every pass that
            changed something.
        reference: The model after its last pass that keeps the function: what is compressed.
        runs: Whether models are run; where the runtime does not take one that is said.
    """

    def __init__(
        self,
        dense: ir.Model,
        ctx: Context,
        evaluator: Evaluator | None,
        *,
        measure: bool = True,
    ) -> None:
        self._dense = dense
        self._ctx = ctx
        self._evaluator = evaluator
        self._lossy = False
        self.scores: dict[str, float] = {}
        self.reference = dense
        self.runs = measure and self._can_run()
        self._score(DENSE, dense)

    def _score(self, step: str, model: ir.Model) -> None:
        found = self.score(model)
        if found is not None and self._evaluator is not None:
            self.scores[step] = found
            self._ctx.events.score(step, self._evaluator.name, found)

    def _can_run(self) -> bool:
        reason = refusal(self._dense, threads=self._ctx.threads, device=self._ctx.device)
        if reason is not None:
            self._ctx.events.note(
                f"nothing is measured, for the model cannot run here: {reason}"
            )
        return reason is None

    def __call__(self, report: PassReport, model: ir.Model) -> None:
        """Hold a pass to its word that keeps the function; score the model behind all others.

        Raises:
            PostconditionError: The outputs moved though the pass says that they do not.
        """
        self._lossy = self._lossy or report.ran.lossy
        if not report.changes:
            return
        if not self._lossy:
            self.reference = model.clone()
            self._require_same(report, model)
        else:
            self._score(report.ran.name, model)

    def score(self, model: ir.Model) -> float | None:
        """The metric of another model; None where there is none, or nothing can run."""
        return self._evaluator(model) if self._evaluator is not None and self.runs else None

    def _require_same(self, report: PassReport, model: ir.Model) -> None:
        if self._ctx.data is None or not self.runs:
            return
        few = Subset(self._ctx.data, np.arange(min(FEW, self._ctx.data.count)))
        found = compare(self._dense, model, few, threads=self._ctx.threads)
        for name, difference in found.items():
            if difference.max_error > 0 and difference.cosine < SAME_FUNCTION:
                raise PostconditionError(
                    f"moved output '{name}' to a cosine of {difference.cosine:.6f}",
                    where=f"pass '{report.ran.name}'",
                    remedy="This is a bug of the pass: nothing was written",
                )

    def latencies(self, model: ir.Model) -> tuple[Latency, ...]:
        """Dense and compressed on this machine, at a few batch sizes.

        None of a model that was lowered for TensorRT: ONNX Runtime has no INT8 kernels for
        its types, so that it would be slow here, whatever it is there.
        """
        if self._ctx.data is None or not self.runs or claims.TENSORRT in model.metadata_props:
            return ()
        sessions = [
            Session(m, threads=self._ctx.threads, device=self._ctx.device)
            for m in (self._dense, model)
        ]
        fixed = sessions[0].batch
        measured: list[Latency] = []
        for batch in LATENCY_BATCHES if fixed is None else (fixed,):
            if measured and batch * (measured[0].dense + measured[0].compressed) > SLOW:
                break
            rows = np.arange(batch) % self._ctx.data.count
            feeds = self._ctx.data.take(rows)
            turns = [on_host(session, feeds) for session in sessions]
            times = interleaved(turns, seconds=LATENCY_SECONDS)
            dense, compressed = (1000 * taken.median for taken in times)
            measured.append(Latency(batch=batch, dense=dense, compressed=compressed))
        return tuple(measured)
