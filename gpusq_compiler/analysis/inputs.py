"""What files are fed with that are timed side by side: the same samples for all."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq_compiler.analysis.contestants import OnnxFile, stand_in
from gpusq_compiler.calibration import batches
from gpusq_compiler.calibration.synthetic import synthesize
from gpusq_compiler.errors import ModelError
from gpusq_compiler.runtime.session import prescribed_batch, without_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import onnx_ir as ir

    from gpusq_compiler.analysis.contestants import Contestant
    from gpusq_compiler.runtime.events import Events
    from gpusq_compiler.runtime.samples import Feeds, Samples
    from gpusq_compiler.runtime.session import InputSpec


def batch_sizes(
    contestants: Sequence[Contestant], asked: Sequence[int], events: Events
) -> Sequence[int]:
    """What was asked for, or what the files prescribe.

    Raises:
        ModelError: The files take different inputs or prescribe different sizes.
    """
    first = contestants[0]
    fixed = {}
    for contestant in contestants:
        _require_alike(first, contestant)
        batch = prescribed_batch(contestant.inputs)
        if batch is not None:
            fixed[batch] = contestant
    if not fixed:
        return list(dict.fromkeys(asked))
    if len(fixed) > 1:
        told = " and ".join(f"{batch} in {c.path}" for batch, c in fixed.items())
        raise ModelError(
            f"the batch sizes that the files prescribe differ: {told}",
            where="bench",
            remedy="Export them with a free batch dimension",
        )
    ((batch, contestant),) = fixed.items()
    if list(asked) != [batch]:
        events.note(f"{contestant.path} prescribes batch size {batch}: only that is measured")
    return [batch]


def _require_alike(first: Contestant, other: Contestant) -> None:
    """Raise unless two files take the same inputs; float types may differ."""
    a, b = ({spec.name: spec for spec in c.inputs} for c in (first, other))
    whole = without_batch(first.inputs) | without_batch(other.inputs)
    if a.keys() == b.keys() and all(
        _alike(a[name], b[name], batched=name not in whole) for name in a
    ):
        return
    raise ModelError(
        f"it takes {_told(other.inputs)}, but {first.path} takes {_told(first.inputs)}",
        where=str(other.path),
        remedy="Time models of the same inputs side by side",
    )


def _alike(a: InputSpec, b: InputSpec, *, batched: bool) -> bool:
    kinds = {a.dtype, b.dtype}
    same = len(kinds) == 1 or all(_is_float(kind) for kind in kinds)
    return same and a.takes_like(b, batched=batched)


def _is_float(kind: np.dtype[np.generic]) -> bool:
    return kind.kind == "f" or kind.name == "bfloat16"


def _told(specs: Sequence[InputSpec]) -> str:
    return ", ".join(map(str, specs))


@contextlib.contextmanager
def samples_for(
    contestants: Sequence[Contestant], data: str | None, seed: int
) -> Iterator[Samples]:
    """The user's data or made-up ones, random and not zero: zeros would draw less power."""
    if data is None:
        yield synthesize(_template(contestants), seed=seed)
        return
    with tempfile.TemporaryDirectory(prefix="gpusq-") as folder:
        yield batches.load(data, contestants[0].inputs, workdir=Path(folder))


def _template(contestants: Sequence[Contestant]) -> ir.Model:
    """A model that knows how its inputs are used, with the sizes that engines know."""
    onnx = next((c for c in contestants if isinstance(c, OnnxFile)), None)
    engine = next((c for c in contestants if c.typical()), None)
    if onnx is None:
        return stand_in(contestants[0])
    if engine is None:
        return onnx.model
    sized = {value.name: value.shape for value in stand_in(engine).graph.inputs}
    template = onnx.model.clone()
    for value in template.graph.inputs:
        value.shape = sized.get(value.name, value.shape)
    return template


def cast(feeds: Feeds, specs: Sequence[InputSpec]) -> Feeds:
    """Floats as a file wants them."""
    return {spec.name: feeds[spec.name].astype(spec.dtype, copy=False) for spec in specs}
