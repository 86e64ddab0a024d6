"""Two models side by side: their outputs on all samples, their tensors on a few."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gpusq_compiler.plain import FORMAT, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpusq_compiler.analysis.divergence import Divergence, TensorDifference
    from gpusq_compiler.runtime.compare import OutputDifference

OUTPUTS = ("output", "cosine", "SQNR", "max error", "same argmax")
TENSORS = ("tensor", "operator", "cosine", "SQNR", "max error", "noise added")
FIGURES = ("cosine", "SQNR", "max error", "same argmax", "noise added")
"""Headings of columns that hold numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two models differ by.

    Attributes:
        samples: On how many samples outputs were compared.
        outputs: By name.
        tensors: Those in between; None where nobody asked for them.
    """

    samples: int
    outputs: Mapping[str, OutputDifference]
    tensors: Divergence | None = None

    def as_json(self) -> dict[str, object]:
        """Everything as plain values; an SQNR of null is one without any error."""
        outputs = [{"name": name, **_fields(one)} for name, one in self.outputs.items()]
        found: dict[str, object] = {
            "format": FORMAT,
            "samples": self.samples,
            "outputs": outputs,
            "tensors": None,
        }
        if self.tensors is not None:
            found["tensors"] = {
                **_fields(self.tensors),
                "parts": _name(self.tensors.parts),
                "noisiest": _name(self.tensors.noisiest),
            }
        return found

    def output_rows(self) -> list[tuple[str, ...]]:
        """The outputs for people, under `OUTPUTS`."""
        return [
            (
                name,
                f"{one.cosine:.6f}",
                f"{one.sqnr:.1f} dB",
                f"{one.max_error:.3g}",
                "" if one.agreement is None else f"{100 * one.agreement:.1f} %",
            )
            for name, one in self.outputs.items()
        ]

    def tensor_rows(self) -> list[tuple[str, ...]]:
        """The tensors for people, under `TENSORS`."""
        return [_row(one) for one in self.tensors.tensors] if self.tensors else []

    def summary(self) -> Iterator[str]:
        """What the tensors tell, in a few lines."""
        found = self.tensors
        if found is None:
            yield "add --layers for the tensors in between, and where the models part"
            return
        yield f"{len(found.tensors)} tensors on {found.samples} samples"
        for name, reason in found.left_out.items():
            yield f"left out: '{name}' {reason}"
        first, worst = found.parts, found.noisiest
        if first is None:
            yield f"they part nowhere: every SQNR is {found.limit:g} dB or more"
        else:
            yield f"they part at {_said(first)}"
        if worst is not None:
            yield f"most noise is added at {_said(worst)}"


def _fields(value: object) -> dict[str, object]:
    found = plain(value)
    assert isinstance(found, dict)
    return found


def _name(one: TensorDifference | None) -> str | None:
    return None if one is None else one.name


def _said(one: TensorDifference) -> str:
    node = f"{one.operator} '{one.node}'" if one.node else one.operator
    place = f"'{one.name}' ({node})"
    return f"{place}: {one.sqnr:.1f} dB, cosine {one.cosine:.6f}"


def _row(one: TensorDifference) -> tuple[str, ...]:
    return (
        _both_names(one),
        one.operator,
        f"{one.cosine:.6f}",
        f"{one.sqnr:.1f} dB",
        f"{one.max_error:.3g}",
        f"{one.added:.2%}" if one.added > 0 else "",
    )


def _both_names(one: TensorDifference) -> str:
    if one.other == one.name:
        return one.name
    longer = one.other.startswith(one.name)
    return f"{one.name} (quantized)" if longer else f"{one.name} = {one.other}"
