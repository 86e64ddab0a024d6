"""Calibration: run the model over samples and let observers see its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpusq_compiler.calibration.stored import Subset
from gpusq_compiler.errors import DataError, ModelError
from gpusq_compiler.ir import gemms, query, sizes
from gpusq_compiler.parallel import ahead
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.runtime.samples import lengths_of
from gpusq_compiler.runtime.session import RUNS_NOTHING, Session, fixed_batch, refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import onnx_ir as ir

    from gpusq_compiler.quant.observers import Observer, RangeState
    from gpusq_compiler.runtime.samples import Samples

BATCH_SIZE = 32


def collect(
    model: ir.Model,
    names: Sequence[str],
    samples: Samples,
    observer: Observer,
    *,
    unsigned: Collection[str] = (),
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
    device: str = "cpu",
    events: Events | None = None,
) -> dict[str, RangeState]:
    """What an observer knows of each named tensor, in the order of ``names``.

    Memory holds the named tensors of two batches, however many samples there are: one is run
    while the other is looked at.

    Args:
        model: Left as it is.
        names: Floating-point tensors of the main graph, inputs and outputs included.
        samples: What the model is run on.
        observer: Chooses the ranges.
        unsigned: Those that get codes without a sign.
        batch_size: Samples per run; a fixed batch dimension of the model wins.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
        events: Receives progress.

    Raises:
        DataError: A tensor is not finite on some batch; the message names it.
    """
    events = events or Silent()
    inputs = {value.name for value in model.graph.inputs}
    inner = [name for name in names if name not in inputs]
    session = Session(model, outputs=inner, threads=threads, device=device)
    states = {
        name: observer.start_unsigned() if name in unsigned else observer.start()
        for name in names
    }
    events.begin("calibrate", samples.count)
    done = 0
    for feeds, results in ahead(session.over(samples, batch_size)):
        first, done = done, min(done + (session.batch or batch_size), samples.count)
        for name, state in states.items():
            values = results.pop(name) if name in results else feeds[name]  # and let go of it
            if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
                raise DataError(
                    f"is not finite on samples {first} to {done - 1}",
                    where=f"tensor '{name}'",
                    remedy="Look for extreme values in the data, or exclude the layer",
                )
            state.update(values)
        events.advance(done)
    events.end()
    return states


def operations(
    model: ir.Model, samples: Samples, *, threads: int | None = None, device: str = "cpu"
) -> int:
    """Multiply-adds per sample of the weighted layers, for a sample of the usual length.

    Args:
        model: Left as it is.
        samples: One batch of them gives the shapes.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        ModelError: The runtime refuses the model.
    """
    layers = [use for use in query.weight_uses(model) if use.node.graph is model.graph]
    needed = gemms.tensors_of(layers)
    refused = refusal(model, outputs=needed, threads=threads, device=device)
    if refused is not None:
        raise ModelError(refused, where="model", remedy=RUNS_NOTHING)
    shapes = layer_shapes(model, samples, threads=threads, device=device)
    return gemms.operations(model, shapes, fixed_batch(model) or 1)


def layer_shapes(
    model: ir.Model, samples: Samples, *, threads: int | None = None, device: str = "cpu"
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the main graph, for one sample of the usual length.

    A model that prescribes a batch has one batch of them. What no inference tells, as behind a
    Reshape to a computed shape, is seen in a run, for weighted layers; where the runtime
    refuses the model, it is left out.

    Args:
        model: Left as it is.
        samples: One batch of them.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
    """
    batch = np.full(fixed_batch(model) or 1, _usual(samples))
    fed = {name: array.shape for name, array in samples.take(batch).items()}
    shapes = sizes.inferred_shapes(model, fed)
    layers = [use for use in query.weight_uses(model) if use.node.graph is model.graph]
    unknown = [name for name in gemms.tensors_of(layers) if name not in shapes]
    if unknown and refusal(model, outputs=unknown, threads=threads, device=device) is None:
        session = Session(model, outputs=unknown, threads=threads, device=device)
        _, found = next(iter(session.over(Subset(samples, batch), 1)))
        shapes |= {name: array.shape for name, array in found.items()}
    return shapes


def _usual(samples: Samples) -> int:
    """The sample whose length is next to the mean, the first where all are alike."""
    lengths = lengths_of(samples)
    return 0 if lengths is None else int(np.argmin(np.abs(lengths - lengths.mean())))
