"""How long to train by default: a pure function of the model and the number of samples."""

from __future__ import annotations

FEWEST_STEPS = 100
MOST_EPOCHS = 120
SLOWEST, FASTEST = 8e9, 6e10
"""Multiply-adds per second on two CPU cores: of networks as small as the digits', and of
encoders; a step costs three forward passes."""
SMALL_STEP = 1.3e8
STEP_OVERHEAD = 0.008
MAC_PER_STEP = 6e9
"""Forward multiply-adds of a batch above 8: more steps teach more than larger ones."""
MAC_PER_SMALL_STEP = 2.5e10
"""The same for a batch of 8, which is halved above: some gigabytes of activations."""
LOOKS = 10
"""Looks at held-out samples, by default, besides the one at the start."""
SHARE_OF_LOOKS = 0.15
FEWEST_LOOKED_AT = 64
RATE = 0.0062
BOLDEST, STEPS_PER_BOLDNESS = 4.0, 60
"""How many times larger steps convolutions bear, if there are enough for the rate to come down
again. Their weights are read at every place of an image, so that their gradients are averages
already."""


def default_batch_size(samples: int, operations: int = 0) -> int:
    """A power of two between 4 and 64: about a sixteenth of the samples, fewer of large ones.

    Args:
        samples: Training samples.
        operations: Multiply-adds per sample of a forward pass.
    """
    size = 8
    while size < 64 and size * 16 < samples:
        size *= 2
    while size > 8 and size * operations > MAC_PER_STEP:
        size //= 2
    if size * operations > MAC_PER_SMALL_STEP:
        size //= 2
    return size


def default_steps(parameters: int, operations: int, samples: int, batch_size: int) -> int:
    """Steps for about 35 s at 10^5 parameters and 4.5 minutes at 10^7, on 2 quiet cores.

    Args:
        parameters: Trainable values.
        operations: Multiply-adds per sample of a forward pass.
        samples: Training samples; no sample is seen more than `MOST_EPOCHS` times.
        batch_size: Samples per step.
    """
    seconds = 34 * max(parameters / 1e5, 0.5) ** 0.44
    step = seconds_per_step(operations, batch_size)
    most = max(FEWEST_STEPS, MOST_EPOCHS * samples // batch_size)
    return int(min(max(seconds / step, FEWEST_STEPS), most))


def seconds_per_step(operations: int, batch_size: int) -> float:
    """How long a step takes on 2 quiet cores, roughly.

    Args:
        operations: Multiply-adds per sample of a forward pass.
        batch_size: Samples per step.
    """
    forward = operations * batch_size
    speed = min(FASTEST, SLOWEST * float(max(1.0, forward / SMALL_STEP) ** 0.45))
    return STEP_OVERHEAD + 3 * forward / speed


def boldness(steps: int, *, convolutional: bool) -> float:
    """By how much the rate exceeds that of other networks: 1 to `BOLDEST`.

    Args:
        steps: Of the whole training.
        convolutional: Whether most of the weights stand in convolutions over space.
    """
    return min(BOLDEST, max(1.0, steps / STEPS_PER_BOLDNESS)) if convolutional else 1.0


def default_learning_rate(magnitude: float, bold: float = 1.0) -> float:
    """Peak rate of AdamW, whose steps are about as long as the rate itself.

    Our choice: a fixed fraction of the weights' size, so that a step moves a wide model with
    its small weights as much, relatively, as a narrow one. Measured in docs/accuracy.md.

    Args:
        magnitude: Median over the layers of the root mean square of their weights.
        bold: See `boldness`.
    """
    return bold * RATE * magnitude


def steps_within(seconds: float, seconds_per_step: float) -> int:
    """Steps that fit a time budget, at least one; a tenth is kept to look at held-out."""
    return max(1, int(0.9 * seconds / seconds_per_step))


def samples_per_look(steps: int, batch_size: int, every: int) -> int:
    """Held-out samples at most, so that all looks cost about a seventh of the training.

    Args:
        steps: Of training, three forward passes each.
        batch_size: Samples per step.
        every: Steps between two looks.
    """
    looks = steps // every + 1
    return max(FEWEST_LOOKED_AT, int(SHARE_OF_LOOKS * 3 * steps * batch_size / looks))
