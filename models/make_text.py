"""Writes ``text_python/train.npz`` and ``text_python/test.npz`` from Python's help texts.

Type ``python models/make_text.py``. The texts are those of ``pydoc_data.topics``, which differ
from one version of Python to the next; the files in the repository are from 3.11.7.
"""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent / "text_python"
CONTEXT = 64
STRIDE = {"train": 32, "test": 16}
TEST_SHARE = 0.1
NEWLINE = 95
"""Class of the line end; 0 to 94 are the characters from space to tilde."""


def encoded(text: str) -> npt.NDArray[np.int64]:
    """One class id per character; what is not ASCII becomes a question mark."""
    codes = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)
    return np.where(codes == ord("\n"), NEWLINE, codes - ord(" "))


def distinct(names: Sequence[str]) -> dict[str, str]:
    """The topics, each paragraph only where it comes first: topics quote one another."""
    seen: set[str] = set()
    texts = {}
    for name in names:
        paragraphs = dict.fromkeys(map(str.rstrip, topics[name].split("\n\n")))
        texts[name] = "\n\n".join(p for p in paragraphs if p not in seen)
        seen |= paragraphs.keys()
    return texts


def main() -> None:
    """Put whole topics aside for the test, cut the rest into windows, write."""
    names = np.random.default_rng(0).permutation(sorted(topics)).tolist()
    texts = distinct(names)
    count = round(len(names) * TEST_SHARE)
    FOLDER.mkdir(exist_ok=True)
    for part, chosen in {"train": names[count:], "test": names[:count]}.items():
        text = encoded("\n\n".join(texts[name] for name in chosen))
        windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)[:: STRIDE[part]]
        np.savez_compressed(
            FOLDER / f"{part}.npz", ids=windows[:, :CONTEXT], labels=windows[:, CONTEXT]
        )
        print(f"{part}.npz: {len(windows)} windows of {len(text)} characters")


if __name__ == "__main__":
    main()
