"""Whether an operator's gradient is right: measured on one `Case`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.loadable import runnable
from gpusq_compiler.train.copy.trainable import training_copy
from gpusq_compiler.train.gradients.gradient import gradient_graph, with_inputs
from gpusq_compiler.train.protograph import ProtoGraph, array_of, opset_of
from gpusq_compiler.train.quantizers import LearnedStep
from tests.train import nets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpusq_compiler.runtime.samples import Array
    from tests.train.operators import Case

STEP = 3e-3
RIGHT, WRONG, NONE = "right", "wrong", "no gradient"


def copy_of(case: Case) -> onnx.ModelProto:
    """The training copy of a case, made with batches of two and of three samples."""
    x = case.x()
    batches = [{"x": x}, {"x": np.concatenate([x, x[:1]])}]
    return training_copy(case.model(), LearnedStep(), batches=batches).model


def bare(case: Case) -> str:
    """Outcome of the operator as it is."""
    return outcome(runnable(case.model()), case)


def outcome(model: onnx.ModelProto, case: Case) -> str:
    """`RIGHT` if the gradients of x and of all parameters equal central differences."""
    loss = _with_loss(model)
    names = ["x", *case.parameters]
    values: dict[str, Array] = {
        t.name: array_of(t) for t in loss.graph.initializer if t.name in names
    }
    values["x"] = case.x()
    moved = with_inputs(loss, names)
    moved.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(values["x"])
    found = _gradients(moved, names, values)
    if found is None:
        return NONE
    good = all(_agrees(moved, name, found[name], values) for name in names)
    return RIGHT if good else WRONG


def _with_loss(model: onnx.ModelProto) -> onnx.ModelProto:
    """The mean of ``sin(1.3 y)``: smooth and never symmetric."""
    graph = ProtoGraph(model.graph, opset_of(model))
    wave = graph.node("Sin", graph.node("Mul", "y", graph.constant(1.3)))
    graph.name(graph.node("ReduceMean", wave, keepdims=0), "loss")
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("loss", onnx.TensorProto.FLOAT, [])
    )
    return model


def _gradients(
    model: onnx.ModelProto, names: Sequence[str], values: Mapping[str, Array]
) -> Mapping[str, Array] | None:
    try:
        built = gradient_graph(model, names, "loss")
        found = nets.run(built, values)
    except TrainingError:
        return None
    except flavour.refusals():
        return None
    return {name: found[f"{name}_grad"] for name in names}


def _agrees(
    model: onnx.ModelProto, name: str, gradient: Array, values: Mapping[str, Array]
) -> bool:
    """Compare along a direction near the gradient's signs."""
    value = values[name]
    if gradient.shape != value.shape:
        return False
    noise = np.random.default_rng(0).normal(size=value.shape)
    along = np.sign(gradient) + 0.3 * noise
    step = STEP / float(np.linalg.norm(along))
    ends = [
        float(
            nets.run(model, {**values, name: np.asarray(value + s * step * along, "f")})[
                "loss"
            ]
        )
        for s in (1, -1)
    ]
    slope = (ends[0] - ends[1]) / (2 * step)
    # float32 losses near 1 differ by 1e-7 over a step of 3e-3 / |along|, |along| up to 40
    return abs(slope - float(np.vdot(gradient, along))) <= 0.04 * abs(slope) + 1e-3
