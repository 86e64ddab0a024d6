"""The digits as a data set of Olive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from olive.data.registry import Registry

if TYPE_CHECKING:
    import torch


class Digits:
    """Images by input name, and the class of each."""

    def __init__(self, file: str) -> None:
        arrays = np.load(file)
        self.x, self.labels = arrays["x"], arrays["labels"]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[dict[str, np.ndarray], int]:
        return {"x": self.x[row]}, int(self.labels[row])


@Registry.register_dataset()
def digits(file: str) -> Digits:
    """What ``load_dataset_config`` names."""
    return Digits(file)


@Registry.register_post_process()
def largest_logit(logits: torch.Tensor) -> torch.Tensor:
    """What ``post_process_data_config`` names: accuracy compares classes."""
    return logits.argmax(dim=-1)
