"""How far the outputs of two models are apart, over samples, in constant memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.errors import ModelError
from gpusq_compiler.ir import outputs
from gpusq_compiler.runtime.events import Events, Silent
from gpusq_compiler.runtime.metrics import Difference, but_shared_masks
from gpusq_compiler.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from gpusq_compiler.runtime.samples import Array, Feeds, Samples

BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """One output of two models.

    Attributes:
        cosine: Cosine of all values of the output, flattened.
        sqnr: Energy of the first model's output to that of the difference, in dB.
        max_error: Largest absolute difference.
        agreement: Fraction of rows with the same largest entry; None unless these are class
            scores: of rank 2, and not pooled or normalised.
    """

    cosine: float
    sqnr: float
    max_error: float
    agreement: float | None


def compare(
    reference: ir.Model,
    model: ir.Model,
    samples: Samples,
    *,
    tensors: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
    device: str = "cpu",
    events: Events | None = None,
) -> dict[str, OutputDifference]:
    """The difference of every output of ``model`` to that of the same name of ``reference``.

    Args:
        reference: Left as it is.
        model: Left as it is.
        samples: What both are run on.
        tensors: Tensors of both main graphs that are compared in place of the outputs.
        batch_size: Samples per run; memory holds what is compared of one run.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
        events: Receives progress.

    Raises:
        ModelError: Inputs, outputs or their shapes differ.
    """
    events = events or Silent()
    first, second = (
        Session(one, outputs=tensors, threads=threads, device=device)
        for one in (reference, model)
    )
    vectors = outputs.embeddings(reference)
    sums: dict[str, Difference] = {}
    agreed: dict[str, list[int]] = {}
    events.begin("compare", samples.count)
    done = 0
    for feeds, wanted, found in paired(first, second, samples, batch_size):
        for name, b in wanted.items():
            told = but_shared_masks(found[name], b)
            sums.setdefault(name, Difference()).update(*told)
            if b.ndim == 2 and name not in vectors:
                same = found[name].argmax(axis=1) == b.argmax(axis=1)
                agreed.setdefault(name, []).append(int(same.sum()))
        done += max((len(value) for value in feeds.values() if value.ndim), default=1)
        events.advance(done)
    events.end()
    return {
        name: OutputDifference(
            cosine=total.cosine,
            sqnr=total.sqnr,
            max_error=total.max_error,
            agreement=sum(agreed[name]) / samples.count if name in agreed else None,
        )
        for name, total in sums.items()
    }


def paired(
    reference: Session, model: Session, samples: Samples, batch_size: int
) -> Iterator[tuple[Feeds, dict[str, Array], dict[str, Array]]]:
    """Feeds and numeric outputs of both models for every batch: reference first.

    Raises:
        ModelError: Inputs, outputs or their shapes differ.
    """
    _same("inputs", [i.name for i in reference.inputs], [i.name for i in model.inputs])
    taken = {spec.name: spec for spec in model.inputs}
    for spec in reference.inputs:
        if not spec.takes_like(taken[spec.name]):
            _same("inputs", [str(spec)], [str(taken[spec.name])])
    _same("outputs", reference.outputs, model.outputs)
    size = reference.batch or model.batch or batch_size
    runs = zip(reference.over(samples, size), model.over(samples, size), strict=True)
    for (feeds, wanted), (_, found) in runs:
        for name, b in wanted.items():
            if b.shape != found[name].shape:
                raise ModelError(
                    f"has shape {list(found[name].shape)} in one model and "
                    f"{list(b.shape)} in the other",
                    where=f"output '{name}'",
                    remedy="Compare models of the same task",
                )
        numeric = [name for name, b in wanted.items() if b.dtype.kind in "iufV"]
        yield feeds, {n: wanted[n] for n in numeric}, {n: found[n] for n in numeric}


def _same(what: str, first: list[str], second: list[str]) -> None:
    if sorted(first) != sorted(second):
        raise ModelError(
            f"the models have different {what}: {', '.join(first)} and {', '.join(second)}",
            where="compare",
            remedy="Compare models of the same task",
        )
