"""Walking a model front to back on fixed samples, so that each layer sees the changed ones.

    samples ─▶ ... ─▶ layer 1 ─▶ ... ─▶ layer 2 ─▶ ...
                   ▲                ▲
              first stop        second stop: computed from the first, with layer 1 as it is now

Whoever changes a layer's weights at its stop sees the consequence at all later ones, and the
whole walk costs one pass over the samples. Between stops only the tensors are kept that the
rest of the walk needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from gpusq_compiler.runtime.session import Session, fixed_batch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from gpusq_compiler.runtime.samples import Array, Feeds, Samples

    Stored = frozenset[ir.Value]

KEPT_BYTES = 1 << 30
"""Above this many bytes between stops the walk goes on with fewer samples."""


class Walk:
    """Gives tensors of the main graph, one after the other, in graph order.

    Args:
        model: May be changed between stops, but only behind the last one.
        stops: Every tensor that will be asked for, in graph order.
        samples: What the model is run on.
        batch_size: Samples per run; a fixed batch dimension of the model wins.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
    """

    def __init__(
        self,
        model: ir.Model,
        stops: Sequence[ir.Value],
        samples: Samples,
        *,
        batch_size: int,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._model = model
        self._left = list(stops)
        self._threads, self._device = threads, device
        size = fixed_batch(model) or batch_size
        fixed = fixed_batch(model) is not None
        self._batches: list[dict[ir.Value, Array]] = [
            self._fed(samples.take(rows)) for rows in _rows(samples.count, size, full=fixed)
        ]

    def _fed(self, feeds: Feeds) -> dict[ir.Value, Array]:
        inputs = {value.name or "": value for value in self._model.graph.inputs}
        return {inputs[name]: array for name, array in feeds.items() if name in inputs}

    def stop(self, value: ir.Value) -> list[Array]:
        """The tensor on every batch of samples.

        Raises:
            ModelError: The runtime refuses a part of the model.
            DataError: It cannot run on the samples.
        """
        assert value in self._left, "stops are announced"
        stored = frozenset(self._batches[0])
        if value not in stored:
            path = _above([value], stored)
            made = [v for node in path for v in node.outputs if v not in stored]
            needed = self._needed(stored.union(made))
            self._run(path, [value, *(v for v in made if v in needed)], stored)
        found = [batch[value] for batch in self._batches]
        self._left.remove(value)
        self._forget()
        return found

    def _needed(self, known: Stored) -> set[ir.Value]:
        """What the stops that are left, or what computes them, read of what is known."""
        ahead = _above(self._left, known)
        return {value for node in ahead for value in reads(node)} | set(self._left)

    def _run(
        self,
        path: Collection[ir.Node],
        wanted: Iterable[ir.Value],
        stored: frozenset[ir.Value],
    ) -> None:
        read = {value for node in path for value in reads(node)}
        sources = [value for value in stored if value in read]
        results = list(dict.fromkeys(wanted))
        session = self._session(sources, results)
        kept = 0
        for index, batch in enumerate(self._batches):
            values = session({value.name or "": batch[value] for value in sources})
            for value in results:
                found = values[value.name or ""]
                if isinstance(found, np.ndarray):
                    batch[value] = found
            kept += sum(array.nbytes for array in batch.values())
            if kept > KEPT_BYTES:
                del self._batches[index + 1 :]
                break

    def _session(self, sources: Sequence[ir.Value], results: Sequence[ir.Value]) -> Session:
        graph = ir.convenience.extract(self._model.graph, sources, results)
        for entry, value in zip(graph.inputs, sources, strict=True):
            array = self._batches[0][value]
            entry.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            entry.shape = ir.Shape([None] * array.ndim)
        part = ir.Model(graph, ir_version=self._model.ir_version)
        names = [value.name or "" for value in results]
        return Session(part, outputs=names, threads=self._threads, device=self._device)

    def _forget(self) -> None:
        """Drop what nothing ahead needs."""
        stored = frozenset(self._batches[0])
        for value in stored - self._needed(stored):
            for batch in self._batches:
                del batch[value]


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """The tensors that a node and the bodies in it read from the graph around it."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        bodies = []
        if attribute.type == ir.AttributeType.GRAPH:
            bodies = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = list(attribute.as_graphs())
        for body in bodies:
            inner = [value for step in body for value in reads(step)]
            yield from (v for v in (*inner, *body.outputs) if v.graph is not body)


def _above(values: Iterable[ir.Value], known: Stored) -> set[ir.Node]:
    """The nodes that compute these tensors from what is known."""
    found: set[ir.Node] = set()
    pending = [value for value in values if value not in known]
    while pending:
        producer = pending.pop().producer()
        if producer is not None and producer not in found:
            found.add(producer)
            pending += [value for value in reads(producer) if value not in known]
    return found


def _rows(count: int, size: int, *, full: bool) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(0, count, size):
        rows = np.arange(first, first + size)
        yield rows % count if full else rows[rows < count]
