"""What a rule and a diagnosis are, and which versions of TensorRT there are to choose from."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import TYPE_CHECKING

from gpusq_compiler.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

MAJORS = (8, 10, 11)
_NEWEST = 99


class Severity(enum.Enum):
    """What happens to a model that breaks a rule."""

    REFUSED = "refused"
    DIFFERS = "differs"
    SLOW = "slow"
    SPARSE = "sparse"


MEANING = {
    Severity.REFUSED: "parser or builder ends with an error",
    Severity.DIFFERS: "an engine is built, and it computes something else than ONNX says",
    Severity.SLOW: "an engine is built, and it computes there in float",
    Severity.SPARSE: "no sparse INT8 kernel can be chosen there",
}


@dataclasses.dataclass(frozen=True, order=True)
class Version:
    """A version of TensorRT; without a minor number the newest of its major version."""

    major: int
    minor: int = _NEWEST

    def __str__(self) -> str:
        return f"{self.major}" if self.minor == _NEWEST else f"{self.major}.{self.minor}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read ``8.6``, ``10``, ``10.0`` or ``11``.

        Raises:
            OptionError: No version that we know the rules of.
        """
        found = re.fullmatch(r"(\d{1,3})(?:\.(\d{1,3}))?(?:\.\d+)*", text.strip())
        major, minor = (int(found[1]), found[2]) if found else (0, None)
        version = cls(major, _NEWEST if minor is None else int(minor))
        if major not in MAJORS or version < cls(8, 6):
            raise OptionError(
                f"'{text}' is no version of TensorRT that is known here",
                where="option --tensorrt",
                remedy="Choose 8.6, 10 or 11",
            )
        return version

    @property
    def pair(self) -> tuple[int, int]:
        """For comparisons with the tables of `operators`."""
        return self.major, self.minor


NEWEST = Version(MAJORS[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rule is broken.

    Attributes:
        where: ``node 'name'`` or ``tensor 'name'``.
        what: One sentence with the number in it.
        remedy: Where it differs from the rule's.
        name: Of the node or tensor alone.
    """

    where: str
    what: str
    remedy: str = ""
    name: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Something that TensorRT wants of a model.

    Attributes:
        name: As tables and tests say it.
        severity: What happens where it is broken.
        reason: One sentence: why.
        remedy: One sentence: what to do.
        check: Answers the places where a model breaks it.
        majors: Major versions that it holds for.
        repairable: Whether `repair` knows what to do in at least some cases.
    """

    name: str
    severity: Severity
    reason: str
    remedy: str
    check: Callable[[ir.Model, Version], Iterator[Place]]
    majors: tuple[int, ...] = MAJORS
    repairable: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One rule, broken in one place."""

    rule: Rule
    place: Place

    @property
    def severity(self) -> Severity:
        """What happens there."""
        return self.rule.severity

    @property
    def remedy(self) -> str:
        """What to do there."""
        return self.place.remedy or self.rule.remedy

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "rule": self.rule.name,
            "severity": self.severity.value,
            "where": self.place.where,
            "what": self.place.what,
            "remedy": self.remedy,
            "repairable": self.rule.repairable,
        }

    def __str__(self) -> str:
        return f"{self.severity.value:8} {self.place.where}: {self.place.what}. {self.remedy}"


def at_node(node: ir.Node, what: str, remedy: str = "") -> Place:
    """A place that is a node; one without a name is called after what it computes."""
    name = node.name or (node.outputs[0].name if node.outputs else "")
    where = f"{node.op_type} '{name}'"
    return Place(where=where, what=what, remedy=remedy, name=name or "")


def at_tensor(value: ir.Value, what: str) -> Place:
    """A place that is a tensor."""
    return Place(where=f"tensor '{value.name}'", what=what, name=value.name or "")
