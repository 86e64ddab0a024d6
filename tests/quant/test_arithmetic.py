from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq_compiler.quant.arithmetic import (
    SMALLEST_SCALE,
    dequantize,
    quantize,
    scale_of,
    weight_scales,
)
from gpusq_compiler.quant.scheme import QuantScheme, one_sided

Weight = npt.NDArray[Any]


@st.composite
def weights(draw: st.DrawFn) -> tuple[Weight, QuantScheme]:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axis = draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = 10.0 ** draw(st.integers(-4, 3))
    dtype = draw(st.sampled_from((np.float64, np.float32, np.float16, ml_dtypes.bfloat16)))
    scheme = QuantScheme(
        dtype=draw(st.sampled_from(("int8", "int4"))), axis=axis, narrow=draw(st.booleans())
    )
    return (rng.standard_normal(shape) * spread).astype(dtype), scheme


def scale_at(scale: Weight, index: tuple[int, ...], axis: int | None) -> float:
    return float(scale[()] if axis is None else scale[index[axis]])


@settings(max_examples=150, deadline=None)
@given(weights())
def test_codes_and_values_are_those_of_the_loop(case: tuple[Weight, QuantScheme]) -> None:
    weight, scheme = case
    scale = weight_scales(weight, scheme)
    codes = quantize(weight, scale, scheme)
    values = dequantize(codes, scale, scheme)
    assert codes.dtype.name == scheme.dtype
    assert values.dtype == np.float32
    for index in itertools.product(*(range(n) for n in weight.shape)):
        step = np.float32(scale_at(scale, index, scheme.axis))
        code = round(float(np.float32(weight[index]) / step))  # Python rounds half to even
        code = min(max(code, scheme.low), scheme.high)
        assert int(codes[index]) == code
        assert values[index] == np.float32(code) * step


@settings(max_examples=150, deadline=None)
@given(weights())
def test_error_is_at_most_half_a_scale(case: tuple[Weight, QuantScheme]) -> None:
    weight, scheme = case
    scale = weight_scales(weight, scheme)
    values = dequantize(quantize(weight, scale, scheme), scale, scheme)
    exact = weight.astype(np.float32)
    for index in itertools.product(*(range(n) for n in weight.shape)):
        step = scale_at(scale, index, scheme.axis)
        # Half a step, and the rounding of the division and the product in float32.
        bound = step * 0.5 + 2 * np.finfo(np.float32).eps * abs(float(exact[index]))
        assert abs(float(values[index]) - float(exact[index])) <= bound


@settings(max_examples=100, deadline=None)
@given(weights())
def test_quantizing_again_changes_nothing(case: tuple[Weight, QuantScheme]) -> None:
    weight, scheme = case
    scale = weight_scales(weight, scheme)
    codes = quantize(weight, scale, scheme)
    again = quantize(dequantize(codes, scale, scheme), scale, scheme)
    np.testing.assert_array_equal(again.astype(int), codes.astype(int))


@settings(max_examples=100, deadline=None)
@given(weights())
def test_the_largest_of_every_channel_gets_the_largest_code(
    case: tuple[Weight, QuantScheme],
) -> None:
    weight, scheme = case
    scale = weight_scales(weight, scheme)
    rank_of_scale = 0 if scheme.axis is None else 1
    assert scale.ndim == rank_of_scale
    assert scale.dtype == np.float32
    codes = np.abs(quantize(weight, scale, scheme).astype(int))
    axis = scheme.axis
    channels = [codes] if axis is None else list(np.moveaxis(codes, axis, 0))
    sources = [weight] if axis is None else list(np.moveaxis(weight, axis, 0))
    for found, source in zip(channels, sources, strict=True):
        alive = float(np.abs(source.astype(np.float32)).max()) / scheme.high > SMALLEST_SCALE
        assert found.max() == (scheme.high if alive else 0)


def test_a_dead_channel_keeps_a_positive_scale_and_zero_codes() -> None:
    weight = np.array([[0, 0], [1, -2]], dtype=np.float32)
    scheme = QuantScheme(axis=0, narrow=True)
    scale = weight_scales(weight, scheme)
    assert scale[0] == np.float32(SMALLEST_SCALE)
    assert quantize(weight, scale, scheme)[0].tolist() == [0, 0]
    # The gradient of a division by the scale stays finite for any sensible value.
    assert np.isfinite(np.float32(1e6) / (scale[0] * scale[0]))


def test_what_is_out_of_range_saturates_without_a_warning() -> None:
    x = np.array([1e30, -1e30, 3e38], dtype=np.float32)
    scale = scale_of(0.0, QuantScheme())
    assert quantize(x, scale, QuantScheme()).tolist() == [127, -128, 127]
    assert quantize(x, scale, QuantScheme(narrow=True)).tolist() == [127, -127, 127]


def test_halves_round_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], dtype=np.float32)
    one = np.float32(1)
    assert quantize(x, np.asarray(one), QuantScheme()).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize(
    "scheme",
    [
        *(QuantScheme(axis=axis) for axis in (None, 0, 1)),
        *(QuantScheme(dtype="uint8", zero=zero) for zero in (0, 21, 128)),
    ],
    ids=str,
)
def test_codes_are_those_of_onnx_runtime(scheme: QuantScheme) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 24)).astype(np.float32)
    scale = weight_scales(x, scheme) * np.float32(0.7)  # some values are clipped
    kind, axis = (np.uint8 if scheme.unsigned else np.int8), scheme.axis
    zero = np.full(scale.shape, scheme.zero, dtype=kind)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    q = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes)
    d = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], **attributes)
    graph = onnx.helper.make_graph(
        [q, d],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x.shape))],
        [
            onnx.helper.make_tensor_value_info(
                "q", onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None
            ),
            onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, None),
        ],
        [onnx.numpy_helper.from_array(scale, "s"), onnx.numpy_helper.from_array(zero, "z")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    codes, values = session.run(None, {"x": x})
    ours = quantize(x, scale, scheme)
    np.testing.assert_array_equal(ours, codes)
    np.testing.assert_array_equal(dequantize(ours, scale, scheme), values)


@pytest.mark.parametrize("zero", [0, 9])
def test_an_unsigned_scheme_is_read_as_it_is_written(zero: int) -> None:
    scheme = QuantScheme(dtype="uint8", zero=zero)
    assert QuantScheme.parse(str(scheme)) == scheme
    assert (scheme.low, scheme.high) == (-zero, 255 - zero)


def test_what_hardly_reaches_below_zero_gets_a_finer_scale() -> None:
    for lowest, largest in ((0.0, 6.0), (-0.17, 4.0), (-2.0, 4.0)):
        scheme = one_sided(lowest, largest)
        assert scheme is not None
        scale = float(scale_of(largest, scheme))
        assert scale < float(scale_of(largest, QuantScheme()))
        assert scheme.low * scale <= lowest * (1 - 1e-6)
        # The code of 0 is rounded up: what is below 0 gets less than one step too much.
        assert scheme.low * scale >= lowest - 1.02 * scale
        assert scheme.high * scale == pytest.approx(largest, rel=1e-6)
    assert one_sided(0.0, 6.0) == QuantScheme(dtype="uint8")


@pytest.mark.parametrize(("lowest", "largest"), [(-2.01, 4.0), (-9.0, 4.0), (0.0, 0.0)])
def test_what_does_keeps_both_signs(lowest: float, largest: float) -> None:
    assert one_sided(lowest, largest) is None
