"""Writes ``digits/train.npz`` and ``digits/test.npz`` from scikit-learn's handwritten digits.

Type ``python models/make_digits.py``. Only this script needs scikit-learn; the files it writes
are in the repository, and the same command gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FOLDER = Path(__file__).parent / "digits"
TEST_COUNT = 500
BRIGHTEST = 16.0


def main() -> None:
    """Scale to [0, 1], split with equal shares of every digit, write."""
    digits = load_digits()
    x = (digits.images / BRIGHTEST).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(x)), test_size=TEST_COUNT, stratify=labels, random_state=0
    )
    FOLDER.mkdir(exist_ok=True)
    for name, rows in {"train": train, "test": test}.items():
        np.savez(FOLDER / f"{name}.npz", x=x[rows], labels=labels[rows])
        print(f"{name}.npz: {len(rows)} digits")


if __name__ == "__main__":
    main()
