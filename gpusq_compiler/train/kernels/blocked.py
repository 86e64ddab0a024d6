"""Convolutions of the runtime's blocked layout, which it gives those with constant weights.

    x [n, c, y, x]      ->  [n, c/b, y, x, b]
    w [out, in, y, x]   ->  [out/b, in/b, y, x, b of in, b of out]

b channels fill a vector register of the processor. Nothing is computed twice and nothing laid
out as a matrix first: on one thread of a Zen 4 core, runtime 1.19.2, a convolution of 3 x 3
over 64 channels of 56 x 56 reaches 105 GFLOP/s with all reordering, the gradient's matrix
product with its scattering 79.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import session_options
from gpusq_compiler.train.protograph import integer_of, integers_of, word_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import onnx

    from gpusq_compiler.train.kernels.kernelgraph import KernelGraph

DOMAIN = "com.microsoft.nchwc"
MOST = 64
"""No processor's blocks have more channels."""


@functools.cache
def block() -> int | None:
    """Channels of a block on this processor, None where the runtime has no such kernels."""
    import onnxruntime

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, MOST, 1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=DOMAIN)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "probe", [x], [y]), opset_imports=imports, ir_version=8
    )
    options = session_options(threads=1, optimize=False)
    pixels = np.repeat(np.array([[0, 1]], np.float32), MOST, axis=0)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(None, {"x": pixels.reshape(1, MOST, 1, 2)})[0]
    except flavour.refusals():
        return None
    width = int(np.argmax(np.ravel(found) == 1))
    return width if width > 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """A convolution of images that there are blocked kernels for, or the gradient of one.

    Attributes:
        size: Of its weight, ``[out, in of a group, y, x]``.
        width: Of the blocks.
        group: 1, or as many as there are channels.
    """

    size: tuple[int, ...]
    width: int
    group: int
    strides: list[int]
    dilations: list[int]
    pads: list[int]

    @property
    def attributes(self) -> dict[str, object]:
        """All that a blocked convolution is told."""
        return {
            "kernel_shape": list(self.size[2:]),
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": self.pads,
            "group": self.group,
        }

    @property
    def inner(self) -> int:
        """Inputs of a block: those of a group stand alone where they do not fill one."""
        return self.width if self.size[1] >= self.width else 1

    @property
    def fits(self) -> bool:
        """Whether channels fill blocks."""
        return self.size[0] % self.width == 0 and self.size[1] % self.inner == 0

    def turned(self) -> Images | None:
        """The convolution of ``dy`` whose result is ``dx``, if it is one of blocks."""
        taps = zip(self.dilations, self.size[2:], strict=True)
        reach = [dilation * (count - 1) for dilation, count in taps] * 2
        pads = [whole - pad for whole, pad in zip(reach, self.pads, strict=True)]
        size = self.size
        if self.group == 1:
            size = (size[1], size[0], *size[2:])
        turned = dataclasses.replace(self, size=size, pads=pads)
        if self.strides != [1, 1] or min(pads) < 0 or not turned.fits:
            return None
        return turned


def images(graph: KernelGraph, node: onnx.NodeProto, weight: str) -> Images | None:
    """What a convolution or its gradient has in common with blocked kernels."""
    size, width, group = graph.size(weight), block(), integer_of(node, "group", 1)
    if width is None or size is None or len(size) != 4:
        return None
    if word_of(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    if group != 1 and (group != size[0] or size[1] != 1):
        return None
    return Images(
        size=size,
        width=width,
        group=group,
        strides=integers_of(node, "strides", [1, 1]),
        dilations=integers_of(node, "dilations", [1, 1]),
        pads=integers_of(node, "pads", [0] * 4),
    )


def weight_of(graph: KernelGraph, weight: str, form: Images) -> str:
    """A weight for a convolution, blocked."""
    strips = _strips(graph, weight, [1, form.size[0], math.prod(form.size[1:]), 1])
    if form.inner > 1:
        return gathered(graph, strips, rows_of(form), form)
    return graph.node("Reshape", strips, graph.integers(form.size))


def turned_weight(graph: KernelGraph, weight: str, turned: Images) -> str:
    """The weight of a convolution for `Images.turned`, its taps in reverse, blocked."""
    taps = list(reversed(range(math.prod(turned.size[2:]))))
    strips = turned_strips(graph, weight, turned)
    return gathered(graph, strips, turned_rows(turned, taps), turned)


def turned_strips(graph: KernelGraph, weight: str, turned: Images) -> str:
    """What `turned_rows` counts in the weight of a convolution."""
    into = 1 if turned.group > 1 else turned.size[1]
    return _strips(graph, weight, [into, turned.size[0], math.prod(turned.size[2:]), 1])


def _strips(graph: KernelGraph, weight: str, size: Sequence[int]) -> str:
    """Blocks of the second axis go to the end."""
    flat = graph.node("Reshape", weight, graph.integers(size))
    return graph.node_of(DOMAIN, "ReorderInput", flat)


def gathered(
    graph: KernelGraph, strips: str, rows: npt.NDArray[np.int32], form: Images
) -> str:
    """A weight of some strips."""
    flat = graph.node("Reshape", strips, graph.integers([-1, form.width]))
    picked = graph.node("Gather", flat, graph.constant(rows))
    return graph.node("Reshape", picked, graph.integers(form.size))


def rows_of(form: Images) -> npt.NDArray[np.int32]:
    """Which strips of ``[out/b, in y x, b]`` follow one another in a weight."""
    out, into, taps = form.size[0], form.size[1], math.prod(form.size[2:])
    rows = np.arange(out // form.width * into * taps, dtype=np.int32)
    strips = rows.reshape(-1, into // form.inner, form.inner, taps)
    return np.ascontiguousarray(strips.transpose(0, 1, 3, 2).ravel())


def turned_rows(turned: Images, chosen: Sequence[int]) -> npt.NDArray[np.int32]:
    """Which strips of ``[in, out/b, y x, b]`` do so in a weight of these taps."""
    out, into, taps = turned.size[0], turned.size[1], math.prod(turned.size[2:])
    rows = np.arange(out // turned.width * into * taps, dtype=np.int32)
    strips = rows.reshape(into // turned.inner, turned.inner, -1, taps)[..., list(chosen)]
    return np.ascontiguousarray(strips.transpose(2, 0, 3, 1).ravel())


def write(
    graph: KernelGraph, x: str, weight: str, form: Images, result: str, *bias: str
) -> None:
    """Add ``result``, the convolution of x [n, c, y, x] with a blocked weight."""
    x = blocks(graph, x, form)
    y = graph.node_of(DOMAIN, "Conv", x, weight, *bias, **form.attributes)
    unblocked(graph, y, form, result)


def blocks(graph: KernelGraph, x: str, form: Images) -> str:
    """``x`` as the convolution reads it."""
    if all(entry.domain != DOMAIN for entry in graph.imports):
        graph.imports.append(helper.make_opsetid(DOMAIN, 1))
    if form.group == 1 and form.inner == 1:
        return x
    return graph.node_of(DOMAIN, "ReorderInput", x)


def unblocked(graph: KernelGraph, y: str, form: Images, result: str) -> None:
    """Add ``result``, what the convolution writes as ``[n, c, y, x]``."""
    graph.into(result, "ReorderOutput", y, domain=DOMAIN, channels=form.size[0])
