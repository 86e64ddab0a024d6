"""The tensors behind weights: read without being held, made anew from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpusq_compiler.runtime.samples import Array


def values(tensor: ir.TensorProtocol) -> Array:
    """The values of a tensor.

    Those in a data file are mapped for as long as somebody looks at them: no memory holds
    them then, and several may look at once.
    """
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name or "",
            base_dir=tensor.base_dir,
        )
    found: Array = tensor.numpy()
    return found


def replaced(
    old: ir.TensorProtocol, array: Array, dtype: ir.DataType | None = None
) -> ir.TensorProtocol:
    """A tensor with the name and notes of another.

    Args:
        old: The other one.
        array: Its values.
        dtype: Their type; None: that of the other.
    """
    kind = dtype or old.dtype
    # In rows: onnx_ir's own passes hash the memory of a tensor as it lies.
    rows = array.astype(kind.numpy(), order="C", copy=False)
    tensor = ir.tensor(rows, dtype=kind, name=old.name)
    carry_notes(old, tensor)
    return tensor


def derived(old: ir.TensorProtocol, function: Callable[[Array], Array]) -> ir.TensorProtocol:
    """A tensor whose values follow from those of another, in shape and type like it.

    Where a data file holds these, the new ones are made whenever they are read: a model that
    does not fit into memory need not.
    """
    if not isinstance(old, ir.ExternalTensor):
        return replaced(old, function(values(old)))
    tensor = ir.LazyTensor(
        lambda: ir.tensor(function(values(old)), dtype=old.dtype),
        dtype=old.dtype,
        shape=old.shape,
        name=old.name,
    )
    carry_notes(old, tensor)
    return tensor


def carry_notes(old: ir.TensorProtocol | None, new: ir.TensorProtocol | None) -> None:
    """What people wrote on a tensor goes over to the one in its place."""
    if old is not None and new is not None:
        new.metadata_props.update(old.metadata_props)
        new.doc_string = old.doc_string
