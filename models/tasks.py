"""What the networks of this folder are trained and judged on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from gpusq_compiler.runtime.metrics import accuracy, psnr
from gpusq_compiler.train.job import Loss
from gpusq_compiler.train.losses import HardLabel, mean

if TYPE_CHECKING:
    from gpusq_compiler.runtime.samples import Array, Feeds, Samples
    from gpusq_compiler.runtime.session import Session
    from gpusq_compiler.train.job import LossGraph

FOLDER = Path(__file__).parent
SCORED_AT_ONCE = 64
NOISE = 0.05
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Task(Protocol):
    """One set of data: how a network learns from it, and how good a network is on it."""

    loss: Loss

    def samples(self, rng: np.random.Generator) -> tuple[Samples, Samples]:
        """To train on, and to choose the best iterate with."""
        ...

    def score(self, session: Session) -> str:
        """How good a network is on the test part."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnError(Loss):
    """The mean of the first output, of a network whose training form gives its own error."""

    name: ClassVar[str] = "own-error"
    needs_teacher: ClassVar[bool] = False

    def build(self, graph: LossGraph) -> str | None:
        """Average the output."""
        return mean(graph, graph.outputs[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Arrays in memory, readable by row as the trainer wants them."""

    arrays: Feeds

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    @property
    def has_labels(self) -> bool:
        """Whether there are class ids beside the inputs."""
        return "labels" in self.arrays

    def take(self, rows: Ids) -> Feeds:
        """Read these rows."""
        return {name: array[rows] for name, array in self.arrays.items()}


def load(folder: str, part: str) -> dict[str, Array]:
    """Read ``train`` or ``test``."""
    with np.load(FOLDER / folder / f"{part}.npz") as stored:
        return {name: stored[name] for name in stored.files}


def answers(session: Session, folder: str) -> tuple[Array, Array]:
    """What a network says on the test part, and the labels."""
    test = Table(arrays=load(folder, "test"))
    runs = session.over(test, SCORED_AT_ONCE)
    outputs = [value for _, outputs in runs for value in outputs.values()]
    return np.concatenate(outputs), test.arrays["labels"]


def disturbed(digits: Feeds, copies: int, rng: np.random.Generator) -> Feeds:
    """Copies of every digit, moved by up to one pixel each way and with a little noise."""
    x, labels = digits["x"], digits["labels"]
    rows = np.tile(np.arange(len(x)), copies)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[2:], axis=(2, 3))
    down, right = rng.integers(0, 3, (2, len(rows)))
    moved = windows[rows, :, down, right]
    noisy = moved + rng.normal(0, NOISE, moved.shape)
    return {"x": np.clip(noisy, 0, 1).astype(np.float32), "labels": labels[rows]}


class Digits:
    """Handwritten digits of 8x8 pixels; how many are recognised?"""

    loss: Loss = HardLabel()
    copies = 50
    held_out_copies = 8
    held_out = 128
    """Whole batches, because the training form of batch normalization looks at the batch."""

    def samples(self, rng: np.random.Generator) -> tuple[Samples, Samples]:
        """Put a tenth aside; copy and disturb."""
        digits = Table(arrays=load("digits", "train"))
        order = rng.permutation(digits.count)
        held_out = digits.take(order[: self.held_out])
        kept = digits.take(order[self.held_out :])
        return (
            Table(arrays=disturbed(kept, self.copies, rng)),
            Table(arrays=disturbed(held_out, self.held_out_copies, rng)),
        )

    def score(self, session: Session) -> str:
        """Share of digits whose largest logit is the right one."""
        return f"{accuracy(*answers(session, 'digits')):.2%}"


class Photos:
    """Tiles of photographs and their halves; how near do the halves come to the whole?"""

    loss: Loss = OwnError()
    held_out = 36

    def samples(self, rng: np.random.Generator) -> tuple[Samples, Samples]:
        """Put a tenth aside; turn and mirror the rest."""
        tiles = load("sr_photos", "train")
        order = rng.permutation(len(tiles["x"]))
        held_out, kept = order[: self.held_out], order[self.held_out :]
        named = {"x": tiles["x"], "target": tiles["labels"]}
        return (
            Table(arrays={name: _turned(array[kept]) for name, array in named.items()}),
            Table(arrays={name: array[held_out] for name, array in named.items()}),
        )

    def score(self, session: Session) -> str:
        """Peak signal-to-noise ratio over all pixels."""
        return f"{psnr(*answers(session, 'sr_photos')):.2f} dB"


class Text:
    """Windows of text; how often is the character that follows the likeliest one?"""

    loss: Loss = OwnError()
    held_out = 128

    def samples(self, rng: np.random.Generator) -> tuple[Samples, Samples]:
        """Put the end of the text aside; train on windows from everywhere before."""
        del rng
        windows = load("text_python", "train")
        held_out = {name: array[-self.held_out :] for name, array in windows.items()}
        kept = {name: array[: -self.held_out - 1] for name, array in windows.items()}
        half = kept["ids"].shape[1] // 2
        text = np.concatenate([kept["ids"][:, :half].ravel(), kept["ids"][-1, half:]])
        everywhere = np.lib.stride_tricks.sliding_window_view(text, 2 * half + 1)
        last = np.column_stack([held_out["ids"], held_out["labels"]])
        return _shifted(everywhere), _shifted(last)

    def score(self, session: Session) -> str:
        """Share of windows whose next character has the largest logit."""
        return f"{accuracy(*answers(session, 'text_python')):.2%}"


def _shifted(windows: Ids) -> Table:
    """Characters, and beside each the one that follows."""
    return Table(arrays={"ids": windows[:, :-1], "following": windows[:, 1:]})


def _turned(tiles: Floats) -> Floats:
    """All eight symmetries of a square; halving commutes with them."""
    turned = [np.rot90(tiles, quarter, axes=(2, 3)) for quarter in range(4)]
    return np.concatenate([*turned, *(tile[..., ::-1] for tile in turned)])
