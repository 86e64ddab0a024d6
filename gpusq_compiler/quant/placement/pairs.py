"""Writing a draft into the graph: one QuantizeLinear and one DequantizeLinear per site.

Scales are float32 in models of any precision: a half precision tensor is cast to float32
around its pair, a half precision weight is kept as float32 before it (exact, and codes in the
end). Half precision scales would need opset 19, and runtimes that have the kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpusq_compiler.ir import claims, edit
from gpusq_compiler.quant.arithmetic import scale_of, weight_scales

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpusq_compiler.quant.placement.draft import Draft
    from gpusq_compiler.quant.placement.sites import Site
    from gpusq_compiler.runtime.samples import Array

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
AUTHOR = "quantize"


def insert(model: ir.Model, draft: Draft, ranges: Mapping[str, float]) -> dict[Site, Array]:
    """Put every pair of the draft into the model.

    Args:
        model: Edited.
        draft: Its sites are tensors of the model.
        ranges: The largest magnitude of every activation without a fixed scale, by name.

    Returns:
        The scale of every site.
    """
    return _Writer(model, draft, ranges).write()


class _Writer:
    def __init__(self, model: ir.Model, draft: Draft, ranges: Mapping[str, float]) -> None:
        self._draft = draft
        self._ranges = ranges
        self._names = edit.Names(model)
        self._order = {node: index for index, node in enumerate(model.graph)}
        self._shared: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._largest: dict[ir.Value, Array] = {}

    def write(self) -> dict[Site, Array]:
        activations = [site for site in self._draft.sites if not site.weight]
        for site in activations:
            root = self._draft.scale_of(site.value)
            scale = self._own_scale(site)
            self._largest[root] = np.maximum(self._largest.get(root, scale), scale)
        placed = (*self._draft.sites, *self._draft.repeats)
        return {site: self._insert(site) for site in placed}

    def _own_scale(self, site: Site) -> Array:
        if site.fixed is not None:
            return np.asarray(site.fixed, np.float32)
        return scale_of(self._ranges[site.value.name or ""], site.scheme)

    def _insert(self, site: Site) -> Array:
        dtype = site.value.dtype
        source = site.value
        nodes: list[ir.Node] = []
        if dtype in HALVES and site.weight:
            self._keep_as_float(site.value, dtype)
        elif dtype in HALVES:
            nodes.append(self._cast(site.value, site.value, ir.DataType.FLOAT))
            source = nodes[0].outputs[0]
        scale, zero = self._parameters(site)
        nodes += self._pair(site, source, scale, zero)
        if dtype in HALVES:
            nodes.append(self._cast(nodes[-1].outputs[0], site.value, dtype))
        _put(nodes, site, self._order)
        edit.redirect(site.readers, nodes[-1].outputs[0])
        assert scale.const_value is not None
        return scale.const_value.numpy()

    def _keep_as_float(self, value: ir.Value, dtype: ir.DataType) -> None:
        """Widen a stored weight; whoever reads it without a pair reads it cast back."""
        tensor, graph = value.const_value, value.graph
        assert tensor is not None
        assert isinstance(graph, ir.Graph)
        edit.retype(value, ir.DataType.FLOAT)
        paired = {
            reader
            for site in self._draft.sites
            if site.value is value
            for reader in site.readers
        }
        others = [use for use in value.uses() if tuple(use) not in paired]
        if others:
            narrow = self._cast(value, value, dtype)
            graph.insert_before(graph[0], narrow)
            edit.redirect(others, narrow.outputs[0])

    def _parameters(self, site: Site) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point; those of activations are made once per shared scale."""
        if site.weight:
            assert site.value.const_value is not None
            scale = weight_scales(site.value.const_value.numpy(), site.scheme)
            return self._new_parameters(site, scale)
        root = self._draft.scale_of(site.value)
        if root not in self._shared:
            self._shared[root] = self._new_parameters(site, self._largest[root])
        return self._shared[root]

    def _new_parameters(self, site: Site, scale: Array) -> tuple[ir.Value, ir.Value]:
        graph, name = site.value.graph, site.value.name
        assert isinstance(graph, ir.Graph)
        step = edit.new_initializer(graph, self._names.fresh(f"{name}.scale"), scale)
        kind = np.uint8 if site.scheme.unsigned else np.int8
        codes = np.full(np.shape(scale), site.scheme.zero, kind)
        zero = edit.new_initializer(graph, self._names.fresh(f"{name}.zero_point"), codes)
        step.metadata_props[claims.QUANTIZER] = str(site.scheme)
        return step, zero

    def _pair(
        self, site: Site, source: ir.Value, scale: ir.Value, zero: ir.Value
    ) -> tuple[ir.Node, ir.Node]:
        name = site.value.name
        axis = {} if site.scheme.axis is None else {"axis": site.scheme.axis}
        q = edit.new_node(
            "QuantizeLinear",
            [source, scale, zero],
            name=self._names.fresh(f"{name}.QuantizeLinear"),
            author=AUTHOR,
            output=self._names.fresh(f"{name}.quantized"),
            like=site.value,
            dtype=zero.dtype,
            attributes=axis,
        )
        dq = edit.new_node(
            "DequantizeLinear",
            [q.outputs[0], scale, zero],
            name=self._names.fresh(f"{name}.DequantizeLinear"),
            author=AUTHOR,
            output=self._names.fresh(f"{name}.dequantized"),
            like=site.value,
            dtype=ir.DataType.FLOAT,
            attributes=axis,
        )
        return q, dq

    def _cast(self, value: ir.Value, like: ir.Value, dtype: ir.DataType) -> ir.Node:
        stem = f"{like.name}.{dtype.name.lower()}"
        return edit.new_node(
            "Cast",
            [value],
            name=self._names.fresh(f"{stem}.Cast"),
            author=AUTHOR,
            output=self._names.fresh(stem),
            like=like,
            dtype=dtype,
            attributes={"to": int(dtype)},
        )


def _put(nodes: list[ir.Node], site: Site, order: Mapping[ir.Node, int]) -> None:
    """Behind the producer of an activation; before the first reader of what has none."""
    graph, producer = site.value.graph, site.value.producer()
    assert isinstance(graph, ir.Graph)
    if producer is not None:
        graph.insert_after(producer, nodes)
        return
    readers = [node for node, _ in site.readers if node.graph is graph]
    first = min(readers, key=lambda node: order.get(node, -1), default=graph[0])
    graph.insert_before(first, nodes)
