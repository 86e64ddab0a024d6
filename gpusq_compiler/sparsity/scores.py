"""How important each weight is: the larger the score, the rather it is kept."""

from __future__ import annotations

import abc
import dataclasses
import enum
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpusq_compiler.components import Component
from gpusq_compiler.errors import OptionError, PreconditionError
from gpusq_compiler.sparsity.masking import masked
from gpusq_compiler.sparsity.nm import NM, mask_of
from gpusq_compiler.sparsity.sparsegpt import by_mean, check_moments, inverse_factor, sparsegpt

Values = npt.NDArray[Any]
Importance = npt.NDArray[np.float32]


class Evidence(enum.Enum):
    """What a score wants to know of a layer besides its weight."""

    NOTHING = "nothing"
    INPUTS = "inputs"
    """The sum of ``x xᵀ`` over the layer's input vectors x, ``[K, K]``."""
    GRADIENTS = "gradients"
    """The mean square of the loss's gradient by each weight, in the weight's shape."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Component, abc.ABC):
    """Scores the weights of one layer; a mask keeps the n largest of every m.

    Attributes:
        needs: What `importance` and `prune` are given as evidence.
        alone: Whether a weight's importance depends on nothing but that weight, so that parts
            of a tensor can be scored on their own.
    """

    kind: ClassVar[str] = "score"
    needs: ClassVar[Evidence] = Evidence.NOTHING
    alone: ClassVar[bool] = False

    @abc.abstractmethod
    def importance(self, weight: Values, evidence: Values | None = None) -> Importance:
        """One score per weight, in the weight's shape.

        Where nothing is needed, several weights may be scored at once, by threads.

        Args:
            weight: ``[rows, K]``, K the reduction axis; any shape where nothing is needed.
            evidence: What `needs` says; None where that is nothing.
        """

    def prune(self, weight: Values, pattern: NM, evidence: Values | None = None) -> Values:
        """The weight ``[rows, K]`` with the pattern along its rows, the kept values unchanged.

        A score that also adapts the kept values overrides this.
        """
        mask = mask_of(self.importance(weight, evidence), pattern, axis=1)
        return masked(weight, mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Magnitude(Score):
    """The absolute value (Han et al. 2015)."""

    name: ClassVar[str] = "magnitude"
    alone: ClassVar[bool] = True

    def importance(self, weight: Values, evidence: Values | None = None) -> Importance:
        """``|w|``, exact for every floating-point type up to 32 bits."""
        del evidence
        return np.abs(weight.astype(np.float32, copy=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanda(Score):
    """The absolute value times the norm of its input (Sun et al. 2023, arXiv 2306.11695)."""

    name: ClassVar[str] = "wanda"
    needs: ClassVar[Evidence] = Evidence.INPUTS

    def importance(self, weight: Values, evidence: Values | None = None) -> Importance:
        """``|w_ij| · ‖x_j‖₂``, the norms the roots of the moments' diagonal.

        The pattern ranks within a row, as the paper's comparison groups do.
        """
        moments = given(evidence, self)
        check_moments(weight, moments)
        norms = _relative(np.sqrt(moments.diagonal().astype(np.float64)))
        return Magnitude().importance(weight) * norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseGpt(Score):
    """The error that pruning leaves once the kept weights have made up for it, and they do.

    Frantar and Alistarh 2023, arXiv 2301.00774; the module ``sparsity.sparsegpt`` has the
    mathematics.
    """

    name: ClassVar[str] = "sparsegpt"
    needs: ClassVar[Evidence] = Evidence.INPUTS

    damping: Annotated[float, "share of the mean square added to every input's"] = 0.01
    refine: Annotated[int, "least-squares steps on the kept weights"] = 10

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        if not 0 <= self.damping < float("inf"):
            raise OptionError(f"{self.damping} is no damping", where="damping", remedy=">= 0")
        if self.refine < 0:
            raise OptionError(f"{self.refine} is too small", where="refine", remedy=">= 0")

    def importance(self, weight: Values, evidence: Values | None = None) -> Importance:
        """``w_ij² / [H⁻¹]_jj``: what pruning this weight alone would cost."""
        moments = given(evidence, self)
        check_moments(weight, moments)
        factor = inverse_factor(by_mean(moments), self.damping)
        alone = np.square(weight.astype(np.float32))
        saliency: Importance = alone / np.square(factor).sum(axis=0)
        return saliency

    def prune(self, weight: Values, pattern: NM, evidence: Values | None = None) -> Values:
        """The weight with the pattern along its rows, the kept values adapted."""
        moments = given(evidence, self)
        found = sparsegpt(weight, moments, pattern, damping=self.damping, refine=self.refine)
        return found.astype(weight.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taylor(Score):
    """What the loss rises by when the weight goes, to second order and each weight alone.

    Optimal Brain Damage (LeCun et al. 1990), with the mean squared gradient in place of the
    second derivative: the diagonal of the empirical Fisher matrix (Theis et al. 2018, arXiv
    1801.05787). OBD's constant factor one half orders nothing and is left out.
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[Evidence] = Evidence.GRADIENTS

    def importance(self, weight: Values, evidence: Values | None = None) -> Importance:
        """``w² · E[g²]``; the absolute value alone where every gradient was 0."""
        squares = given(evidence, self)
        if squares.shape != weight.shape:
            raise PreconditionError(
                f"gradients {squares.shape} do not fit a weight {weight.shape}"
            )
        return np.square(weight.astype(np.float32)) * _relative(squares.astype(np.float64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto(Score):
    """``sparsegpt`` where there are real data on which the model runs, else ``magnitude``."""

    name: ClassVar[str] = "auto"

    def importance(self, weight: Values, evidence: Values | None = None) -> Importance:
        """That of `Magnitude`, for whoever asks without data."""
        return Magnitude().importance(weight, evidence)


def given(evidence: Values | None, score: Score) -> Values:
    """The evidence that a score cannot do without.

    Raises:
        PreconditionError: There is none.
    """
    if evidence is None:
        raise PreconditionError(f"needs the layer's {score.needs.value}", where=score.name)
    return evidence


def relative_output_error(weight: Values, pruned: Values, moments: Values) -> float:
    """``√(tr(D M Dᵀ) / tr(W M Wᵀ))``, D = W - pruned: how far the layer's output moved.

    0 where the output was 0 and stays so, infinite where it was 0 and does not. In float64.
    """
    wide, difference = weight.astype(np.float64), weight.astype(np.float64) - pruned
    moments = moments.astype(np.float64)
    lost, whole = (max(float(np.vdot(w @ moments, w)), 0.0) for w in (difference, wide))
    if not whole:
        return float("inf") if lost else 0.0
    return float(np.sqrt(lost / whole))


def _relative(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Values by their largest, which float32 holds whatever their scale; 1 where all are 0."""
    largest = values.max(initial=0.0)
    return (values / largest if largest else np.ones_like(values)).astype(np.float32)
