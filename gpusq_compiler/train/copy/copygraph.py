"""A graph that is written anew from another one, whose shapes and constants are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.errors import TrainingError
from gpusq_compiler.train.copy.observed import Observed
from gpusq_compiler.train.protograph import ProtoGraph, Shape, array_of, opset_of, tensor_types

if TYPE_CHECKING:
    import onnx

    from gpusq_compiler.runtime.samples import Array


class CopyGraph(ProtoGraph):
    """Holds the old graph's facts while the new one is written.

    Args:
        model: Its node list is emptied; ``source`` keeps the old nodes.
        observed: What a dry run told.
    """

    def __init__(self, model: onnx.ModelProto, observed: Observed | None = None) -> None:
        super().__init__(model.graph, opset_of(model))
        seen = observed or Observed()
        self.kinds, self.shapes = tensor_types(model)
        self.shapes.update(seen.shapes)
        self._values = seen.values
        self.source = list(model.graph.node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.constants = {
            node.output[0]: node for node in self.source if node.op_type == "Constant"
        }
        self.producers = {name: node for node in self.source for name in node.output if name}
        self.uses: dict[str, list[onnx.NodeProto]] = {}
        for node in self.source:
            for name in node.input:
                self.uses.setdefault(name, []).append(node)
        del model.graph.node[:]

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor of the old graph, None where inference did not find it."""
        return self.shapes.get(name)

    def rank(self, name: str) -> int:
        """Number of dimensions of a tensor of the old graph.

        Raises:
            TrainingError: It is not known.
        """
        shape = self.shape(name)
        if shape is None:
            raise TrainingError(
                "the rank of the tensor is not known",
                where=f"tensor '{name}'",
                remedy="Run shape inference on the model, or export it with fixed ranks",
            )
        return len(shape)

    def value(self, name: str) -> Array | None:
        """The value of a constant tensor of the old graph, None where it is not constant."""
        if name in self.initializers:
            return array_of(self.initializers[name])
        for entry in self.constants[name].attribute if name in self.constants else ():
            if entry.name == "value":
                return array_of(entry.t)
        return self._values.get(name)

    def constant_integers(self, node: onnx.NodeProto, index: int) -> list[int] | None:
        """An integer input of a node that must be constant; [] where it is left out.

        None stands for an input that is computed.
        """
        if len(node.input) <= index or not node.input[index]:
            return []
        value = self.value(node.input[index])
        return None if value is None else [int(v) for v in value.reshape(-1)]

    def sizes(self, name: str) -> list[int] | None:
        """Sizes behind batch and channel, None unless all of them are known."""
        shape = self.shape(name)
        sizes = [] if shape is None else [size for size in shape[2:] if size is not None]
        return sizes if shape is not None and len(sizes) == len(shape) - 2 else None
