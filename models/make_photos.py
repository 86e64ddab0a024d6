"""Writes ``sr_photos/train.npz`` and ``sr_photos/test.npz`` from photographs of scikit-learn.

Type ``python models/make_photos.py``. Only this script needs scikit-learn and Pillow; what it
writes is in the repository, and the same command gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_sample_images

FOLDER = Path(__file__).parent / "sr_photos"
SCALE = 2
SIDE = 32
"""Of a large tile; the small one has half of it."""
COLUMNS = 20
TEST_COLUMNS = (4, 5, 6, 13, 14, 15)
"""Two stripes of each photograph, from top to bottom; the rest is trained on."""
LUMA = np.array([0.299, 0.587, 0.114])
BRIGHTEST = 255


def halved(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of 2x2 pixels, rounded to whole grey levels."""
    *batch, height, width = images.shape
    blocks = images.reshape(*batch, height // SCALE, SCALE, width // SCALE, SCALE)
    means: npt.NDArray[np.float64] = np.round(blocks.mean(axis=(-3, -1)))
    return means


def tiles(photo: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[rows, columns, side, side], side by side from the top left corner."""
    rows, columns = (size // SIDE for size in photo.shape)
    cut = photo[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE)
    grid: npt.NDArray[np.float64] = cut.swapaxes(1, 2)
    return grid


def main() -> None:
    """Reduce to luma, cut, halve, write."""
    photos = [tiles(np.round(photo @ LUMA)) for photo in load_sample_images().images]
    FOLDER.mkdir(exist_ok=True)
    kept = [column for column in range(COLUMNS) if column not in TEST_COLUMNS]
    for name, columns in {"train": kept, "test": TEST_COLUMNS}.items():
        large = np.concatenate([p[:, columns].reshape(-1, 1, SIDE, SIDE) for p in photos])
        x, labels = ((grey / BRIGHTEST).astype(np.float32) for grey in (halved(large), large))
        np.savez_compressed(FOLDER / f"{name}.npz", x=x, labels=labels)
        print(f"{name}.npz: {len(x)} tiles")


if __name__ == "__main__":
    main()
