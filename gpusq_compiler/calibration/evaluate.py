"""One number for how good a model is on samples that were never trained on."""

from __future__ import annotations

import dataclasses
import functools
import math
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpusq_compiler.calibration.functions import (
    load_function,
    neighbours,
    split_spec,
    user_code,
)
from gpusq_compiler.calibration.padding import by_length
from gpusq_compiler.errors import DataError, OptionError
from gpusq_compiler.runtime.compare import BATCH_SIZE, paired
from gpusq_compiler.runtime.metrics import Difference, hits
from gpusq_compiler.runtime.samples import (
    IGNORED,
    LABELS,
    Array,
    Feeds,
    Samples,
    is_mask,
    with_padding,
)
from gpusq_compiler.runtime.session import Remembering, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import onnx_ir as ir

METRICS = ("accuracy", "topk", "psnr", "cosine")
LIKENESS = frozenset({"psnr", "cosine"})
"""Metrics that compare outputs with the reference's, where there are no targets."""
TOP = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Scores models on fixed samples; `Evaluator.of` chooses how.

    Attributes:
        name: The metric, as the user says it.
        samples: What models are run on.
        reference: The dense model, where the metric needs one.
    """

    name: str
    samples: Samples
    reference: ir.Model
    batch_size: int = BATCH_SIZE
    threads: int | None = None
    device: str = "cpu"
    _function: tuple[Path, Callable[..., object]] | None = None

    @classmethod
    def of(
        cls,
        metric: str | None,
        samples: Samples,
        reference: ir.Model,
        *,
        batch_size: int = BATCH_SIZE,
        threads: int | None = None,
        device: str = "cpu",
    ) -> Evaluator:
        """The evaluator for ``--metric``.

        Args:
            metric: ``accuracy``, ``topk``, ``psnr``, ``cosine`` or ``module.py:function``;
                None chooses accuracy where labels are class ids, else cosine.
            samples: What models are run on.
            reference: The dense model; kept, so give a copy that is not rewritten.
            batch_size: Samples per run; a fixed batch dimension of the model wins.
            threads: Threads of the runtime.
            device: ``cpu``, ``cuda`` or ``auto``.

        Raises:
            OptionError: There is no such metric.
            DataError: The metric needs class ids and there are none, or its file fails.
            FileError: Its file is not there.
        """
        has_classes = _label_kind(samples) in {"i", "u"}
        name = metric or ("accuracy" if has_classes else "cosine")
        user = split_spec(name)
        if user is None and name not in METRICS:
            raise OptionError(
                f"'{name}' is no metric",
                where="--metric",
                remedy=f"Allowed: {', '.join(METRICS)}, module.py:function",
            )
        if name in {"accuracy", "topk"} and not has_classes:
            raise DataError(
                f"{name} needs an integer array '{LABELS}'",
                where="--metric",
                remedy="Add class ids to the data, or use --metric cosine",
            )
        return cls(
            name=name,
            samples=samples,
            reference=reference,
            batch_size=batch_size,
            threads=threads,
            device=device,
            _function=(user[0], load_function(*user)) if user else None,
        )

    @property
    def measures_accuracy(self) -> bool:
        """Whether the number is one of correct answers, not of likeness to the dense model."""
        return self.name not in {"cosine", "psnr"} or self._scores_targets

    def __call__(self, model: ir.Model) -> float:
        """The score of a model.

        Raises:
            DataError: Labels do not fit the outputs, or the user's function fails.
            ModelError: The model cannot be run, or its outputs are not the reference's.
        """
        if self._function is None and self.name in LIKENESS and not self._scores_targets:
            return self._likeness(model)
        session = self._session(model)
        if self._function is not None:
            return self._user_score(session, *self._function)
        runs = session.over(with_padding(self.samples), self.batch_size)
        if self.name in {"accuracy", "topk"}:
            return _hit_rate(runs, TOP if self.name == "topk" else 1)
        return _target_psnr(runs)

    @property
    def _scores_targets(self) -> bool:
        return self.name == "psnr" and _label_kind(self.samples) == "f"

    def _session(self, model: ir.Model) -> Session:
        return Session(model, threads=self.threads, device=self.device)

    @functools.cached_property
    def _wanted(self) -> Remembering:
        """The reference, which is asked for the same samples again and again."""
        return Remembering(self.reference, threads=self.threads, device=self.device)

    def _likeness(self, model: ir.Model) -> float:
        """The worst output's likeness to the reference's; padding of texts does not count."""
        sums: dict[str, Difference] = {}
        for wanted, found in self._pairs(model):
            for name, b in wanted.items():
                if b.dtype.kind in "fV":
                    known = np.isfinite(b.astype(np.float32))
                    sums.setdefault(name, Difference()).update(found[name][known], b[known])
        if not sums:
            raise DataError(
                f"{self.name} needs a floating-point output and the model has none",
                where="--metric",
                remedy="Use --metric module.py:function",
            )
        return min(d.psnr if self.name == "psnr" else d.cosine for d in sums.values())

    def _pairs(self, model: ir.Model) -> Iterator[tuple[Feeds, Feeds]]:
        """Outputs of the reference and the model; the reference itself runs once."""
        samples = by_length(self.samples)
        if model is self.reference:
            yield from ((out, out) for _, out in self._wanted.over(samples, self.batch_size))
            return
        both = paired(self._wanted, self._session(model), samples, self.batch_size)
        yield from ((wanted, found) for _, wanted, found in both)

    def _user_score(
        self, session: Session, file: Path, function: Callable[..., object]
    ) -> float:
        runs = list(session.over(with_padding(self.samples), self.batch_size))
        outputs = _joined(outputs for _, outputs in runs)
        feeds = _joined(feeds for feeds, _ in runs)
        with neighbours(file), user_code(self.name):
            score = function(outputs, feeds)
        if isinstance(score, np.ndarray) and score.size == 1:
            score = score.item()
        if not isinstance(score, Real) or math.isnan(score):
            given = "NaN" if isinstance(score, Real) else f"type {type(score).__name__}"
            raise DataError(
                f"gives {given}, not a number", where=self.name, remedy="Return one float"
            )
        return float(score)


def _label_kind(samples: Samples) -> str | None:
    if not samples.has_labels:
        return None
    return samples.take(np.zeros(1, np.int64))[LABELS].dtype.kind


def _hit_rate(runs: Iterator[tuple[Feeds, dict[str, Array]]], k: int) -> float:
    hit = count = 0
    for feeds, outputs in runs:
        labels = feeds[LABELS]
        scores = _scores(outputs, labels)
        largest = int(labels.max(initial=0))
        if largest >= scores.shape[-1]:
            raise DataError(
                f"class {largest} is outside the model's {scores.shape[-1]} classes",
                where=f"array '{LABELS}'",
                remedy="Check that the labels belong to this model",
            )
        counted = _counted(feeds, labels)
        found = hits(scores, np.where(counted, labels, 0), k)[counted]
        hit += int(np.count_nonzero(found))
        count += found.size
    if not count:
        raise DataError(
            f"holds nothing but {IGNORED}",
            where=f"array '{LABELS}'",
            remedy="Give labels, or use --metric cosine",
        )
    return hit / count


def _counted(feeds: Feeds, labels: Array) -> npt.NDArray[np.bool_]:
    """Where there is a label, and no padding of a text."""
    counted: npt.NDArray[np.bool_] = labels != IGNORED
    for name, array in feeds.items():
        if is_mask(name) and array.shape == labels.shape:
            counted = counted & (array != 0)
    return counted


def _scores(outputs: dict[str, Array], labels: Array) -> Array:
    """The first output that has one row of class scores per label: ``[..., classes]``.

    Of a segmentation, axis 1: scores ``[n, classes, h, w]``, labels ``[n, h, w]``.
    """
    for values in outputs.values():
        if values.ndim and values.shape[:-1] == labels.shape:
            return values
        if values.ndim > 2 and (values.shape[0], *values.shape[2:]) == labels.shape:
            return np.moveaxis(values, 1, -1)
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
    raise DataError(
        f"has shape {list(labels.shape)}, which is not that of an output without its "
        f"classes ({shapes})",
        where=f"array '{LABELS}'",
        remedy="Give one class id per row of class scores, or use --metric cosine",
    )


def _target_psnr(runs: Iterator[tuple[Feeds, dict[str, Array]]]) -> float:
    sums = Difference()
    for feeds, outputs in runs:
        name, values = next(iter(outputs.items()))
        if values.shape != feeds[LABELS].shape:
            raise DataError(
                f"has shape {list(feeds[LABELS].shape)}, output '{name}' has "
                f"{list(values.shape)}",
                where=f"array '{LABELS}'",
                remedy="Give targets of the output's shape",
            )
        sums.update(values, feeds[LABELS])
    return sums.psnr


def _joined(parts: Iterable[Feeds]) -> dict[str, Array]:
    """Batches put together; of what has no batch axis the last one counts."""
    listed = list(parts)
    return {
        name: np.concatenate([part[name] for part in listed]) if value.ndim else value
        for name, value in listed[-1].items()
    }
