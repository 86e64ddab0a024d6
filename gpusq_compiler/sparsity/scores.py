"""How important each weight is: the larger the score, the rather it is kept."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpusq_compiler.components import Component


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Component, abc.ABC):
    """Scores the weights of one layer; a mask keeps the n largest of every m."""

    kind: ClassVar[str] = "score"

    @abc.abstractmethod
    def importance(self, weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """One score per weight, in the weight's shape."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Magnitude(Score):
    """The absolute value (Han et al. 2015)."""

    name: ClassVar[str] = "magnitude"

    def importance(self, weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """``|w|``, exact for every floating-point type up to 32 bits."""
        return np.abs(weight.astype(np.float32))
