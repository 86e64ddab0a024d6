"""The contenders of `qat_step` that run on PyTorch: the same networks, the same arithmetic.

Runs in an environment of its own with torch and timm, and imports nothing of gpusq-compiler.
Weights have one learned scale per output channel, inputs of products one per tensor; the mask
is multiplied onto the weights after every step.

usage: python -m benchmarks.qat_step_torch MODEL eager|compiled BATCH THREADS
"""

from __future__ import annotations

import sys
from typing import Any

import timm
import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional

from benchmarks.turns import take_turns


def fake_quant(x: Any, scale: Any, low: int, high: int) -> Any:
    """``s * clip(round(x / s), low, high)`` with the gradient passed through ``round``."""
    ratio = x / scale
    rounded = ratio + (ratio.round() - ratio).detach()
    return rounded.clamp(low, high) * scale


class Quantized(nn.Module):
    """A linear or convolution layer behind fake quantization of both its inputs."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        weight = layer.weight.detach()
        rest = tuple(range(1, weight.ndim))
        self.scale = nn.Parameter(weight.abs().amax(rest, keepdim=True) / 127)
        self.step = nn.Parameter(torch.tensor(0.05))

    def forward(self, x: Any) -> Any:
        """The layer on quantized values."""
        layer = self.layer
        weight = fake_quant(layer.weight, self.scale, -127, 127)
        x = fake_quant(x, self.step, -128, 127)
        if isinstance(layer, nn.Linear):
            return functional.linear(x, weight, layer.bias)
        return functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding)


class Encoder(nn.Module):
    """The network of ``tests.train.nets.transformer``."""

    def __init__(self, width: int = 384, depth: int = 6, tokens: int = 25) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width, bias=False)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, 12, qkv_bias=True) for _ in range(depth)))
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Any) -> Any:
        """Blocks, mean over tokens, head."""
        return self.head(self.blocks(self.embed(x) + self.position).mean(1))


def network(name: str) -> tuple[Any, tuple[int, ...]]:
    """A float network without batch normalization, and the shape of a sample."""
    if name == "encoder":
        return Encoder(), (25, 384)
    model = timm.create_model(name)
    for module in list(model.modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                setattr(module, child, layer.act if hasattr(layer, "act") else nn.Identity())
            elif isinstance(layer, nn.Conv2d) and layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    return model, (3, 224, 224)


def quantize(model: Any) -> list[tuple[Any, Any]]:
    """Put fake quantization in; every quantized weight with its 2:4 mask."""
    masks = []
    for module in list(model.modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                setattr(module, child, Quantized(layer))
                flat = layer.weight.detach().abs().flatten(1)
                if flat.shape[1] % 4 == 0:
                    ranks = flat.view(-1, 4).argsort(1).argsort(1)
                    masks.append((layer.weight, (ranks >= 2).view(layer.weight.shape).float()))
    return masks


def main() -> None:
    """Be one of them."""
    name, mode, batch, threads = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model, shape = network(name)
    masks = quantize(model)
    weights = [weight for weight, _ in masks]
    kept = [mask for _, mask in masks]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    forward = torch.compile(model) if mode == "compiled" else model
    x = torch.randn(int(batch), *shape)
    labels = torch.randint(1000, (int(batch),))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(forward(x), labels).backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(weights, kept)

    take_turns(step)


if __name__ == "__main__":
    main()
