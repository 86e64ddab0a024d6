"""Where two models part: every tensor that both compute, in the order of the first one.

The noise of a tensor is the energy of its difference, relative to its own energy in the first
model; in decibels and with the other sign it is the SQNR. What a mask takes out does not count
(`masks`). Models *part* at the first tensor whose SQNR is below a limit. *Most noise is added*
where a tensor has most above the noisiest tensor that it is computed from.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.analysis import masks
from gpusq_compiler.analysis.matching import matched
from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import edit, sizes
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.runtime.metrics import Difference, but_shared_masks
from gpusq_compiler.runtime.session import Session, fixed_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir

    from gpusq_compiler.analysis.matching import Pair
    from gpusq_compiler.runtime.samples import Samples

SAMPLES, BATCH_SIZE = 16, 4
PART_AT = 20.0
"""Decibels: an error of a tenth."""
HELD = 256 << 20
"""Bytes of tensors of one model that are looked at in one run."""
UNKNOWN = 32
"""How many tensors are looked at in one run where no size is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One tensor of two models.

    Attributes:
        name: In the first model.
        other: In the second one.
        node: What computes it in the first model.
        operator: Of that node.
        cosine: Of all its values, flattened.
        sqnr: Energy of the first model's tensor to that of the difference, in dB.
        max_error: Largest absolute difference.
        added: Noise above that of the noisiest tensor that it is computed from.
    """

    name: str
    other: str
    node: str
    operator: str
    cosine: float
    sqnr: float
    max_error: float
    added: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """All tensors of two models.

    Attributes:
        samples: On how many samples.
        tensors: In the order of the first model.
        left_out: Tensors that cannot be compared, and why.
        limit: SQNR in dB below which models part.
    """

    samples: int
    tensors: tuple[TensorDifference, ...]
    left_out: Mapping[str, str]
    limit: float

    @property
    def parts(self) -> TensorDifference | None:
        """The first tensor whose SQNR is below the limit, or no number."""
        return next((one for one in self.tensors if not one.sqnr >= self.limit), None)

    @property
    def noisiest(self) -> TensorDifference | None:
        """The tensor at which most noise is added; None where there is none at all."""
        noisy = [one for one in self.tensors if one.added > 0]
        return max(noisy, key=lambda one: one.added, default=None)


def diverge(
    first: ir.Model,
    second: ir.Model,
    samples: Samples,
    *,
    count: int = SAMPLES,
    limit: float = PART_AT,
    threads: int | None = None,
    device: str = "cpu",
    events: Events | None = None,
) -> Divergence:
    """Run two models side by side, operator by operator as their files say.

    Memory holds `HELD` bytes of tensors of each model at most, or one tensor; where that is
    not all of them, the models run again for the next ones.

    Args:
        first: The one that sets order and scale.
        second: Takes the same inputs.
        samples: Of their inputs.
        count: How many of these, at most.
        limit: SQNR in dB below which models part.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
        events: Receives progress.

    Raises:
        ModelError: They have no tensor in common, or the runtime refuses one.
        DataError: One cannot run on the samples.
    """
    few = Subset(samples, np.arange(min(count, samples.count)))
    pairs = matched(_typed(first), _typed(second))
    if not pairs:
        raise ModelError(
            "the models have no computed tensor in common",
            where="compare",
            remedy="Compare a model with what was made of it",
        )
    sums: dict[str, Difference] = {}
    left_out: dict[str, str] = {}
    events = events or Silent()
    events.begin("tensors", len(pairs))
    done = 0
    for group in _groups(first, pairs, few):
        run = _Lockstep(first, second, group, threads=threads, device=device)
        run.add(few, sums, left_out)
        done += len(group)
        events.advance(done)
    events.end()
    kept = [pair for pair in pairs if pair.name in sums and pair.name not in left_out]
    return Divergence(
        samples=few.count,
        tensors=tuple(_differences(kept, sums)),
        left_out=left_out,
        limit=limit,
    )


def _typed(model: ir.Model) -> ir.Model:
    clone = model.clone()
    edit.infer_shapes(clone)
    return clone


def _groups(model: ir.Model, pairs: Sequence[Pair], samples: Samples) -> Iterator[list[Pair]]:
    """Pairs that fit into memory together; what no inference tells counts as the largest."""
    fed = samples.take(np.zeros(fixed_batch(model) or BATCH_SIZE, np.int64))
    shapes = sizes.inferred_shapes(model, {name: array.shape for name, array in fed.items()})
    known = {
        pair.name: 4 * math.prod(shapes[pair.name]) for pair in pairs if pair.name in shapes
    }
    largest = max(known.values(), default=HELD // UNKNOWN)
    group: list[Pair] = []
    held = 0
    for pair in pairs:
        size = known.get(pair.name, largest)
        if group and held + size > HELD:
            yield group
            group, held = [], 0
        group.append(pair)
        held += size
    yield group


class _Lockstep:
    """Two models that run on the same batches, asked for the same tensors."""

    def __init__(
        self,
        first: ir.Model,
        second: ir.Model,
        pairs: Sequence[Pair],
        *,
        threads: int | None,
        device: str,
    ) -> None:
        self._pairs = pairs
        self._scores = masks.scores(first)
        self._first, self._second = (
            Session(model, outputs=names, threads=threads, device=device, optimize=False)
            for model, names in (
                (first, [pair.name for pair in pairs]),
                (second, [pair.other for pair in pairs]),
            )
        )

    def add(
        self, samples: Samples, sums: dict[str, Difference], left_out: dict[str, str]
    ) -> None:
        """Add what differs, and say what cannot be compared."""
        size = self._first.batch or self._second.batch or BATCH_SIZE
        runs = zip(
            self._first.over(samples, size), self._second.over(samples, size), strict=True
        )
        for (_, wanted), (_, found) in runs:
            for pair in self._pairs:
                b, a = wanted[pair.name], found[pair.other]
                reason = _obstacle(b, a)
                if reason:
                    left_out[pair.name] = reason
                else:
                    told = but_shared_masks(a, b)
                    if pair.name in self._scores:
                        told = masks.but_masked(*told)
                    sums.setdefault(pair.name, Difference()).update(*told)


def _obstacle(first: object, second: object) -> str:
    """Why two results cannot be compared; empty if they can."""
    if not isinstance(first, np.ndarray) or not isinstance(second, np.ndarray):
        return "is no tensor"
    if first.dtype.kind not in "fV" or second.dtype.kind not in "fV":
        return f"is {first.dtype} and {second.dtype}"
    if first.shape != second.shape:
        return f"has shape {list(first.shape)} and {list(second.shape)}"
    return ""


def _differences(
    pairs: Sequence[Pair], sums: Mapping[str, Difference]
) -> Iterator[TensorDifference]:
    noise = {name: _noise(found) for name, found in sums.items()}
    for pair in pairs:
        found = sums[pair.name]
        before = max((noise.get(name, 0.0) for name in pair.sources), default=0.0)
        yield TensorDifference(
            name=pair.name,
            other=pair.other,
            node=pair.node,
            operator=pair.operator,
            cosine=found.cosine,
            sqnr=found.sqnr,
            max_error=found.max_error,
            added=noise[pair.name] - before,
        )


def _noise(found: Difference) -> float:
    """Energy of the error relative to that of the reference."""
    if not found.error_energy:
        return 0.0
    return found.error_energy / found.reference_energy if found.reference_energy else math.inf
