"""The pictures of the concept pages; what is a number in them is computed by the program."""

from __future__ import annotations

import numpy as np

from docs.make.drawing import Drawing
from gpusq_compiler.quant.arithmetic import quantize, scale_of
from gpusq_compiler.quant.scheme import QuantScheme
from gpusq_compiler.sparsity.masking import kept_magnitude
from gpusq_compiler.sparsity.nm import NM, mask_of

WIDTH = 520
SIDE = 34
PATTERN = NM.parse("2:4")
SCHEME = QuantScheme()


def files() -> dict[str, str]:
    """Every picture by its file."""
    drawn = {
        "pipeline": pipeline(),
        "pattern": pattern(),
        "axis": axis(),
        "codes": codes(),
        "pairs": pairs(),
        "training": training(),
        "engine": engine(),
    }
    return {f"pictures/{name}.svg": str(one) for name, one in drawn.items()}


def pipeline() -> Drawing:
    """From a file to an engine: the passes and what each leaves behind."""
    rows = (
        ("canonicalize", "same function, one form", ""),
        ("prune", "2 of every 4 weights are 0", "main"),
        ("distill", "trained in float, on request", "dash"),
        ("quantize", "Q/DQ pairs, calibrated on your data", "main"),
        ("qat", "trained as it will run", "main"),
        ("freeze", "weights are int8 codes", ""),
        ("lower", "for TensorRT: the rest is FP16", "dash"),
        ("pack", "stored without zeros, on request", "dash"),
    )
    step = 44
    made = Drawing(WIDTH, 150 + step * len(rows), "The passes in their order")
    made.named(10, 10, (150, 36), "model.onnx")
    for index, (name, words, kind) in enumerate(rows):
        y = 66 + step * index
        made.arrow((85, y - 20 if index == 0 else y - 12), (85, y))
        made.named(10, y, (150, 32), name, f"box {kind}" if kind != "main" else "main")
        made.text(176, y + 21, words)
    y = 66 + step * len(rows)
    made.arrow((85, y - 12), (85, y))
    made.named(10, y, (150, 36), "model.gpusq.onnx")
    made.arrow((160, y + 18), (216, y + 18))
    made.named(218, y, (130, 36), "ONNX Runtime")
    made.path(f"M85 {y + 36}L85 {y + 62}L216 {y + 62}", arrow=True)
    made.named(218, y + 44, (290, 36), "TensorRT engine, sparse INT8 kernels")
    return made


def pattern() -> Drawing:
    """A row of weights, its mask, and what is stored of it."""
    row = np.array([[0.42, -0.07, 0.91, 0.13, -0.55, 0.60, 0.02, -0.31]], np.float32)
    mask = mask_of(np.abs(row), PATTERN, axis=1)
    share = kept_magnitude(row, mask)
    made = Drawing(WIDTH, 250, "Two of every four weights stay")
    made.text(10, 22, "dense", "bold")
    made.text(10, 92, "2:4", "bold")
    made.text(10, 164, "stored", "bold")
    for column in range(row.size):
        x = 84 + column * (SIDE + 12 * (column >= 4) / 4) + 12 * (column // 4)
        kept, value = bool(mask[0, column]), row[0, column]
        made.cell(x, 4, SIDE, "keep", f"{value:.2f}".replace("0.", "."))
        made.cell(x, 70, SIDE, "keep" if kept else "zero",
                  f"{value:.2f}".replace("0.", ".") if kept else "0")  # fmt: skip
    made.text(400, 94, f"keeps {share:.0%}", "small")
    made.text(400, 110, "of the magnitude", "small")
    for group in range(2):
        places = np.flatnonzero(mask[0, 4 * group : 4 * group + 4])
        x = 84 + group * 190
        for index, place in enumerate(places):
            value = row[0, 4 * group + place]
            made.cell(x + index * SIDE, 144, SIDE, "keep", f"{value:.2f}".replace("0.", "."))
            made.cell(x + 80 + index * SIDE, 144, SIDE, "zero", f"{place:02b}")
        made.text(x, 196, "values", "small faint")
        made.text(x + 80, 196, "where (2 bits)", "small faint")
    made.text(
        10, 230, "Every group of four on its own: two values and two positions.", "small"
    )
    return made


def axis() -> Drawing:
    """Groups of four lie along what is summed over."""
    made = Drawing(WIDTH, 360, "The axis that a product sums over")
    side = 18
    made.text(10, 20, "MatMul: y = x W, weight [K, N], summed over K", "bold")
    for m in range(3):
        for k in range(8):
            made.cell(20 + k * side, 70 + m * side, side, "zero")
    made.text(92, 60, "x [M, K]", "small mid")
    made.path("M20 140L164 140", "ours", arrow=True)
    made.text(92, 158, "K", "small mid green")
    _columns(made, 230, 44, side)
    made.text(284, 36, "W [K, N]", "small mid")
    made.path("M216 44L216 188", "ours", arrow=True)
    made.text(198, 120, "K", "small green")
    made.text(360, 90, "Groups of four go down", "small")
    made.text(360, 108, "each column: two of the", "small")
    made.text(360, 126, "four stay.", "small")
    made.text(10, 232, "Conv: weight [out, in, kH, kW], summed over in, kH and kW", "bold")
    for channel in range(4):
        _channel(made, 20 + channel * 72, 250, kept=channel in {0, 2}, number=channel)
    made.path("M28 318v10h216v-10M100 318v10M172 318v10", "ours")
    made.text(136, 346, "one kernel place of four input channels", "small mid green")
    for place in range(9):
        made.cell(390 + place % 3 * side, 254 + place // 3 * side, side,
                  "bad" if place < 4 else "zero")  # fmt: skip
    made.text(417, 328, "four neighbours in the", "small mid red")
    made.text(417, 344, "flattened kernel: useless", "small mid red")
    return made


def _columns(made: Drawing, x: float, y: float, side: float) -> None:
    """A weight of eight rows with the pattern down its columns."""
    weight = np.random.default_rng(3).standard_normal((8, 6))
    mask = mask_of(np.abs(weight), PATTERN, axis=0)
    for row in range(8):
        for column in range(6):
            kind = "keep" if mask[row, column] else "zero"
            made.cell(x + column * side, y + row * side, side, kind)
    for group in range(2):
        made.path(f"M{x - 1} {y + 72 * group}h{6 * side + 2}v72h-{6 * side + 2}z", "ours")


def _channel(made: Drawing, x: float, y: float, *, kept: bool, number: int) -> None:
    """The kernel of one input channel, its upper left value marked."""
    for place in range(9):
        kind = "zero" if place else ("keep" if kept else "box")
        made.cell(
            x + place % 3 * 16, y + place // 3 * 16, 16, kind, "" if place or kept else "0"
        )
    made.path(f"M{x + 8} {y + 17}V{y + 68}", "ours")
    made.text(x + 24, y + 64, f"in {number}", "small mid faint")


def codes() -> Drawing:
    """Symmetric quantization as a staircase through 0."""
    made = Drawing(WIDTH, 290, "Rounding to steps of one scale, clipping at the last code")
    left, middle, unit = 270, 140, 22
    made.path(f"M20 {middle}L505 {middle}", arrow=True)
    made.path(f"M{left} 270L{left} 14", arrow=True)
    made.text(500, middle - 8, "x", "small")
    made.text(left + 10, 24, "code", "small")
    top = 4
    points = f"M40 {middle + top * unit}"
    for code in range(-top, top):
        edge = left + (code + 0.5) * 2 * unit
        points += f"H{edge:g}V{middle - (code + 1) * unit}"
    made.path(points + "H490", "ours")
    made.text(left + 8, middle + 18, "0 stays 0", "small green")
    made.text(386, middle - top * unit - 10, "127: clipped", "small")
    made.text(44, middle + top * unit + 20, "-128: clipped", "small")
    made.path(f"M{left + unit} {middle + 34}h{2 * unit}", "ours")
    made.text(left + 2 * unit, middle + 54, "one scale", "small mid")
    largest = 2.54
    scale = scale_of(largest, SCHEME)
    code = int(quantize(np.array([0.5]), scale, SCHEME)[0])
    words = f"range {largest:g}: scale {float(scale):.3g}, 0.5 becomes {code}"
    made.text(505, 262, words, "small faint end")
    return made


def pairs() -> Drawing:
    """Where Q/DQ pairs stand around a layer, for both targets."""
    made = Drawing(WIDTH, 330, "Q/DQ pairs around one layer")
    made.text(10, 20, "--target onnxruntime", "bold")
    _layer(made, 100)
    made.text(10, 190, "--target tensorrt: also behind sparse layers", "bold")
    _layer(made, 270, out=True)
    return made


def _layer(made: Drawing, y: float, *, out: bool = False) -> None:
    """X and W through their pairs into a product; ``out``: a pair on the output."""
    made.text(10, y - 40, "x")
    made.text(6, y + 34, "W")
    for start, top, kind in ((28, y - 58, "box"), (28, y + 16, "main")):
        made.named(start, top, (40, 28), "Q", kind)
        made.named(start + 56, top, (44, 28), "DQ", kind)
        made.arrow((start + 40, top + 14), (start + 55, top + 14))
    made.arrow((128, y - 44), (158, y - 18))
    made.arrow((128, y + 30), (158, y + 4))
    made.named(160, y - 24, (76, 34), "MatMul")
    made.arrow((236, y - 7), (256, y - 7))
    made.named(258, y - 22, (54, 30), "bias")
    made.arrow((312, y - 7), (330, y - 7))
    made.named(332, y - 22, (54, 30), "Relu")
    if out:
        made.arrow((386, y - 7), (402, y - 7))
        made.named(404, y - 21, (34, 28), "Q", "main")
        made.arrow((438, y - 7), (450, y - 7))
        made.named(452, y - 21, (40, 28), "DQ", "main")
        made.arrow((492, y - 7), (514, y - 7))
    else:
        made.arrow((386, y - 7), (440, y - 7))
        made.text(448, y - 2, "float")


def training() -> Drawing:
    """Teacher, student and what holds the pattern."""
    made = Drawing(WIDTH, 330, "Distillation with a frozen pattern")
    made.named(200, 8, (120, 32), "your samples")
    made.arrow((230, 40), (110, 74))
    made.arrow((290, 40), (400, 74))
    made.box(10, 76, (210, 120))
    made.text(115, 98, "teacher", "bold mid")
    made.text(115, 122, "your model as it came:", "small mid")
    made.text(115, 140, "dense, float, never changed", "small mid")
    made.box(300, 76, (210, 120), "main")
    made.text(405, 98, "student", "bold mid")
    made.text(405, 122, "2:4 weights, rounded and", "small mid")
    made.text(405, 140, "clipped as int8 will be", "small mid")
    made.text(405, 172, "weights and scales learn", "small mid")
    made.arrow((115, 196), (220, 240))
    made.arrow((405, 196), (300, 240))
    made.named(130, 242, (260, 36), "how far outputs and features part")
    made.path("M390 260L486 260L486 200", "ours", arrow=True)
    made.text(510, 292, "gradient step, then pruned places are 0 again", "small end green")
    made.text(10, 318, "Labels, where you have some, are one more term.", "small faint")
    return made


def engine() -> Drawing:
    """What a sparse INT8 kernel does with one layer."""
    made = Drawing(WIDTH, 340, "One layer on a sparse INT8 kernel")
    for k in range(8):
        made.cell(20, 60 + k * 24, 24, "zero", f"x{k}")
    made.text(6, 44, "int8 in", "small")
    taken = (0, 2, 4, 5)
    for index, place in enumerate(taken):
        made.cell(240, 84 + index * 36, 30, "keep", "w")
        made.cell(274, 84 + index * 36, 30, "zero", f"{place % 4:02b}")
        made.path(f"M46 {72 + place * 24}L238 {99 + index * 36}", "ours")
    made.text(240, 62, "kept codes", "small")
    made.text(240, 78, "and positions", "small faint")
    made.text(62, 286, "positions choose the inputs:", "small")
    made.text(62, 302, "half of the products", "small")
    made.arrow((306, 156), (340, 156))
    made.named(342, 138, (70, 36), "sum")
    made.text(377, 192, "int32", "small mid faint")
    made.arrow((412, 156), (430, 156))
    made.named(430, 128, (86, 56), "scale, Relu")
    made.arrow((472, 184), (472, 214))
    made.text(472, 232, "int8 out", "small mid green")
    made.text(342, 286, "float out: the layer", "small red")
    made.text(342, 302, "runs on a dense kernel", "small red")
    return made
