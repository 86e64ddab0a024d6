"""Block-wise distillation: the critical layers' tensors cut the student into blocks.

    block i:  f_i(teacher's tensor i - 1)  is compared with  teacher's tensor i

Every block reads what the dense model's block reads, so no error and no gradient crosses a
cut, and all blocks train at once in one graph. What follows the last cut learns from the
outputs' losses. Features that no term compares cut nothing. Block-wise targets: Li et al. 2021
(BRECQ), arXiv 2102.05426; the teacher's inputs and one graph for all blocks are our choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx


def read_instead(nodes: Iterable[onnx.NodeProto], renamed: Mapping[str, str]) -> None:
    """Let nodes, their bodies included, read other tensors; what they produce keeps its name.

    Args:
        nodes: Edited in place.
        renamed: Tensor → the one that is read in its place.
    """
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for entry in node.attribute:
            for value in entry.g.output:
                value.name = renamed.get(value.name, value.name)
            read_instead(entry.g.node, renamed)
