"""Running a model: one wrapper around ONNX Runtime for the whole program."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from gpusq_compiler.errors import DataError, MissingRuntime, ModelError, first_line
from gpusq_compiler.ir import query
from gpusq_compiler.ir.io import structure
from gpusq_compiler.ir.precision import widened
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.excerpt import cut
from gpusq_compiler.runtime.loadable import add_outputs, loadable, runnable
from gpusq_compiler.runtime.samples import LABELS, Array, Feeds, Samples, batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx

logger = logging.getLogger(__name__)

RUNS_NOTHING = "What runs nothing works: --passes prune, gpusq inspect, gpusq lint"
INLINE_LIMIT = 1 << 30
"""Above this many bytes of weights a private copy is written beside its data, not inlined."""

REMEMBERED = 64 << 20
"""Bytes of inputs and outputs that are kept rather than computed again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a model wants on one input; unknown dimensions are None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def takes_like(self, other: InputSpec, *, batched: bool = True) -> bool:
        """Whether samples of one shape fit both, whatever batch they prescribe if batched."""
        pairs = list(zip(self.shape, other.shape, strict=False))[batched:]
        return len(self.shape) == len(other.shape) and all(
            None in pair or pair[0] == pair[1] for pair in pairs
        )

    def __str__(self) -> str:
        """Name, type and shape, ``x float32[?,3,8,8]``."""
        sizes = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype}[{sizes}]"


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs that a caller has to feed (initializers with a default are left out).

    Raises:
        ModelError: An input has no tensor type or no known rank.
    """
    specs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if value.dtype is None or value.shape is None:
            raise ModelError(
                "the input has no element type or no shape",
                where=f"input '{value.name}'",
                remedy="Export the model with typed inputs",
            )
        if value.dtype == ir.DataType.STRING:
            raise ModelError(
                "the input takes strings, which no pass and no data file can hold",
                where=f"input '{value.name}'",
                remedy="Cut the text processing off and start at the numbers it gives",
            )
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        dtype = np.dtype(value.dtype.numpy())
        specs.append(InputSpec(name=value.name or "", dtype=dtype, shape=shape))
    return tuple(specs)


def fixed_batch(model: ir.Model) -> int | None:
    """The batch size that the model prescribes, or None when it is free."""
    return prescribed_batch(input_specs(model))


def without_batch(specs: Sequence[InputSpec]) -> frozenset[str]:
    """Inputs that have no batch dimension: scalars, and where the first one is none.

    The smallest fixed first dimension is the batch; a larger one (a state ``[2, 1, 128]``
    beside samples ``[1, 512]``) is something else.
    """
    batch = prescribed_batch(specs)
    return frozenset(
        spec.name
        for spec in specs
        if not spec.shape or (spec.shape[0] is not None and spec.shape[0] != batch)
    )


def prescribed_batch(specs: Sequence[InputSpec]) -> int | None:
    """The batch size that inputs prescribe together, or None when it is free."""
    fixed = {spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None}
    return min(fixed, default=None)


class Session:
    """A model ready to run.

    Args:
        model: Left as it is; a private copy is run.
        outputs: Tensor names to return; none means the model's own outputs.
        threads: Threads per operator; None lets the runtime choose.
        device: ``cpu``, ``cuda`` or ``auto``.
        optimize: Whether the runtime may fuse and fold; off keeps every tensor observable.

    Raises:
        ModelError: The runtime refuses the model.
        MissingRuntime: The device is not there.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        outputs: Sequence[str] = (),
        threads: int | None = None,
        device: str = "cpu",
        optimize: bool = True,
        workdir: Path | None = None,
    ) -> None:
        import onnxruntime

        self.inputs = input_specs(model)
        self.batch = fixed_batch(model)
        self._whole = without_batch(self.inputs)
        own = [value.name or "" for value in model.graph.outputs]
        self.outputs: list[str] = list(outputs) or own
        proto = runnable(model, [name for name in self.outputs if name not in own])
        cut(proto.graph, self.outputs)
        options = session_options(threads=threads, optimize=optimize)
        source = _bytes_or_path(proto, workdir)
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=providers(device)
            )
        except flavour.refusals() as error:
            raise ModelError(
                f"ONNX Runtime refuses the model: {first_line(error)}",
                remedy=RUNS_NOTHING,
            ) from error
        self._sum_of_nothing = query.sum_of_nothing(model)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch; ``labels`` and other extra arrays are ignored.

        Raises:
            DataError: The runtime refuses the arrays.
            ModelError: A layer sums over nothing.
        """
        wanted = {spec.name: _fed(feeds[spec.name]) for spec in self.inputs}
        try:
            values = self._session.run(self.outputs, wanted)
        except flavour.refusals() as error:
            if self._sum_of_nothing is not None:
                raise _cannot_sum(self._sum_of_nothing) from error
            shapes = ", ".join(f"{k}{list(v.shape)}" for k, v in wanted.items())
            raise DataError(
                f"the model cannot run on {shapes}: {first_line(error)}",
                remedy="Check that shapes and values are those that the model takes",
            ) from error
        return dict(zip(self.outputs, values, strict=True))

    def over(self, samples: Samples, size: int) -> Iterator[tuple[Feeds, dict[str, Array]]]:
        """Run all samples in order.

        A model of fixed batch size gets padded batches; the padding is cut off again. A model
        without any batch dimension sees one sample at a time.
        """
        alone = len(self._whole) == len(self.inputs)
        for feeds in batches(samples, 1 if alone else self.batch or size):
            count = 1 if alone else len(next(iter(feeds.values())))
            results = self(self._padded(feeds, self.batch) if self.batch else feeds)
            if self.batch and count < self.batch:
                results = {
                    name: value[:count] if value.ndim and len(value) == self.batch else value
                    for name, value in results.items()
                }
            yield feeds, results

    def _padded(self, feeds: Feeds, size: int) -> Feeds:
        def pad(value: Array) -> Array:
            missing = size - len(value)
            return np.concatenate([value, np.repeat(value[-1:], missing, axis=0)])

        return {
            name: value if name in self._whole else pad(value)
            for name, value in feeds.items()
            if name != LABELS
        }


def _cannot_sum(node: ir.Node) -> ModelError:
    return ModelError(
        "its weight has a dimension of 0, and the installed ONNX Runtime does not run it",
        where=f"{node.op_type} '{node.name}'",
        remedy=f"Export the model without the layer. {RUNS_NOTHING}",
    )


class Remembering(Session):
    """Always run over the same samples: what comes out is kept, where it is not much."""

    _known: Sequence[tuple[Feeds, dict[str, Array]]] | None = None

    def over(self, samples: Samples, size: int) -> Iterator[tuple[Feeds, dict[str, Array]]]:
        """Run all samples the first time; recall the outcome from then on."""
        if self._known is not None:
            yield from self._known
            return
        seen: list[tuple[Feeds, dict[str, Array]]] = []
        room = REMEMBERED
        for feeds, results in super().over(samples, size):
            room -= sum(value.nbytes for value in (*feeds.values(), *results.values()))
            if room >= 0:
                seen.append((feeds, results))
            yield feeds, results
        if room >= 0:
            self._known = seen
            del self._session  # and its copy of the weights


def refusal(
    model: ir.Model,
    *,
    outputs: Sequence[str] = (),
    threads: int | None = None,
    device: str = "cpu",
) -> str | None:
    """Why the runtime does not take a model; None if it does.

    It is asked about the structure, which costs little; only where it refuses that, about the
    whole with all its weights.

    Args:
        model: Left as it is.
        outputs: Tensors of the main graph; only what they are computed from is asked about.
        threads: Threads of the runtime.
        device: ``cpu``, ``cuda`` or ``auto``.
    """
    import onnxruntime

    fails: tuple[type[Exception], ...] = (ModelError, *flavour.refusals())
    try:
        input_specs(model)
        proto = structure(widened(model))
        if outputs:
            add_outputs(proto, outputs)
            cut(proto.graph, outputs)
        proto = loadable(proto)
        onnxruntime.InferenceSession(
            proto.SerializeToString(), session_options(threads=1), providers=providers(device)
        )
    except fails:
        return _refusal_of_the_whole(model, outputs, threads=threads, device=device)
    return None


def _refusal_of_the_whole(
    model: ir.Model, outputs: Sequence[str], *, threads: int | None, device: str
) -> str | None:
    try:
        Session(model, outputs=outputs, threads=threads, device=device)
    except ModelError as error:
        return error.what
    return None


def _fed(array: Array) -> Array:
    """What `runnable` takes in place of an array."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def session_options(*, threads: int | None = None, optimize: bool = True) -> Any:
    """Quiet, deterministic session options; what fails is raised and need not be printed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    # Several sessions take turns here; threads that spin while they wait starve the next one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def providers(device: str) -> list[str]:
    """Execution providers for ``cpu``, ``cuda`` or ``auto``.

    Raises:
        MissingRuntime: CUDA was asked for and is not there.
    """
    if device == "cpu":
        return ["CPUExecutionProvider"]
    import onnxruntime

    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise MissingRuntime(
            "the installed ONNX Runtime has no CUDA provider",
            where="--device cuda",
            remedy="See: gpusq doctor",
        )
    if not has_cuda:
        return ["CPUExecutionProvider"]
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _bytes_or_path(proto: onnx.ModelProto, workdir: Path | None) -> bytes | str:
    import onnx

    if workdir is None or proto.ByteSize() < INLINE_LIMIT:
        return bytes(proto.SerializeToString())
    path = workdir / "private.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="private.data")
    return str(path)
