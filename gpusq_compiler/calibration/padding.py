"""Samples of text without the padding that makes all of them equally long.

Data for a text model are usually padded to one length, and a mask says where a text ends. What
lies behind the longest text of a batch costs time and, where ranges and moments are measured,
stands for nothing that the model meets in use. It is cut off where that changes no output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import GpusqError
from gpusq_compiler.runtime.metrics import Difference
from gpusq_compiler.runtime.samples import batches, is_mask, lengths_of
from gpusq_compiler.runtime.session import Session, input_specs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Feeds, Samples
    from gpusq_compiler.runtime.session import InputSpec

TRIED = 4
"""Samples on which both ways are compared."""
CHUNK = 1024
LIKE = 0.99999
"""Cosine from which outputs count as unchanged."""


class Unpadded:
    """Samples whose batches end where their longest text ends.

    Args:
        samples: Padded, on the right.
        names: Inputs with the texts' positions along axis 1.
        lengths: [count], of each text.
    """

    def __init__(
        self, samples: Samples, names: Sequence[str], lengths: npt.NDArray[np.int64]
    ) -> None:
        self.whole = samples
        self.lengths = lengths
        self._names = names

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.whole.count

    @property
    def has_labels(self) -> bool:
        """Whether the feeds contain ``labels``."""
        return self.whole.has_labels

    def take(self, rows: npt.NDArray[np.int64]) -> Feeds:
        """Read these rows, up to the end of the longest."""
        longest = int(self.lengths[rows].max(initial=1))
        feeds = self.whole.take(rows)
        return {k: v[:, :longest] if k in self._names else v for k, v in feeds.items()}


def unpadded(
    samples: Samples, model: ir.Model, *, threads: int | None = None, device: str = "cpu"
) -> Samples:
    """The samples without padding, or as they are.

    They stay as they are where no mask says that there is padding, where the model prescribes
    the length, or where its outputs notice.

    Args:
        samples: That fit the model.
        model: Run on a few samples both ways.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
    """
    inputs = {spec.name: _positions(model, spec) for spec in input_specs(model)}
    mask = next((name for name, free in inputs.items() if free and is_mask(name)), None)
    if mask is None or samples.count < 2:
        return samples
    lengths = _lengths(samples, mask)
    if lengths is None:
        return samples
    names = [name for name, free in inputs.items() if free == inputs[mask]]
    found = Unpadded(samples, names, lengths)
    session = Session(model, threads=threads, device=device)
    return found if _equal(session, found) else samples


def by_length(samples: Samples) -> Samples:
    """Samples of like length one after the other, so that batches have little to pad."""
    lengths = lengths_of(samples)
    return samples if lengths is None else Subset(samples, np.argsort(lengths, kind="stable"))


def _positions(model: ir.Model, spec: InputSpec) -> str | None:
    """What the file calls the open length of an input of integers ``[samples, length]``."""
    if spec.dtype.kind not in "iu" or len(spec.shape) != 2 or spec.shape[1] is not None:
        return None
    shape = next(v.shape for v in model.graph.inputs if v.name == spec.name)
    return str(shape[1]) if shape is not None else None


def _lengths(samples: Samples, mask: str) -> npt.NDArray[np.int64] | None:
    """Length of each text; None where one does not begin at once, or none is padded."""
    found = []
    for feeds in batches(samples, CHUNK):
        given = feeds[mask] != 0
        ends: npt.NDArray[np.int64] = given.sum(1)
        if not np.array_equal(given, np.arange(given.shape[1]) < ends[:, None]):
            return None
        found.append(ends)
    lengths = np.concatenate(found)
    return lengths if 0 < lengths.min() < given.shape[1] else None


def _equal(session: Session, samples: Unpadded) -> bool:
    """Whether the shortest texts, give the same outputs."""
    rows = np.argsort(samples.lengths, kind="stable")[:TRIED]
    cut, full = samples.take(rows), samples.whole.take(rows)
    try:
        found, wanted = session(cut), session(full)
    except GpusqError:
        return False
    return all(_like(found[name], wanted[name]) for name in session.outputs)


def _like(found: Array, wanted: Array) -> bool:
    """Whether an output is the same as far as it goes."""
    if found.ndim != wanted.ndim:
        return False
    wanted = wanted[tuple(map(slice, found.shape))]
    if found.shape != wanted.shape:
        return False
    difference = Difference()
    difference.update(found, wanted)
    return difference.cosine > LIKE
