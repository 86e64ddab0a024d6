"""What TensorRT accepts: rules as data, and `lint`, which holds a model against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq_compiler.trt.legality import attention, graphs, layers, quantizers
from gpusq_compiler.trt.legality.constants import prepared
from gpusq_compiler.trt.legality.rules import NEWEST, Diagnosis, Rule, Severity, Version

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir as ir


def lint(
    model: ir.Model,
    version: Version = NEWEST,
    severities: Collection[Severity] = tuple(Severity),
) -> tuple[Diagnosis, ...]:
    """Everything in a model that TensorRT would refuse, run in float or read differently.

    Args:
        model: By whatever tool; it is left as it is.
        version: Of TensorRT.
        severities: Of the rules that are asked.

    Returns:
        In the order of `RULES`, places in graph order.
    """
    clone = prepared(model)  # has no functions any more, so the rule about them asks the model
    return tuple(
        Diagnosis(rule=rule, place=place)
        for rule in RULES
        if version.major in rule.majors and rule.severity in severities
        for place in rule.check(model if rule.check is graphs.functions else clone, version)
    )


def refusals(model: ir.Model, version: Version) -> tuple[Diagnosis, ...]:
    """What TensorRT would end with an error over."""
    return lint(model, version, (Severity.REFUSED,))


RULES: tuple[Rule, ...] = (
    Rule(
        name="operator",
        severity=Severity.REFUSED,
        reason="The importer finds operators by name and knows no other",
        remedy="Export the model with other operators, or write a plugin",
        check=graphs.unknown_operator,
        repairable=True,
    ),
    Rule(
        name="function",
        severity=Severity.REFUSED,
        reason="Functions of a model are imported since TensorRT 9.0",
        remedy="Inline them",
        check=graphs.functions,
        majors=(8,),
        repairable=True,
    ),
    Rule(
        name="opset",
        severity=Severity.REFUSED,
        reason="Newer forms of operators are read wrongly or not at all",
        remedy="Export the model with an older opset",
        check=graphs.newer_opset,
        majors=(8, 10),
    ),
    Rule(
        name="second-output",
        severity=Severity.REFUSED,
        reason="Of LayerNormalization and MaxPool only the first output is imported",
        remedy="Compute it from the first one; --fix drops it where nobody reads it",
        check=graphs.second_output,
        repairable=True,
    ),
    Rule(
        name="dilated-pool",
        severity=Severity.REFUSED,
        reason="Pooling with gaps is not supported",
        remedy="Use slices and Max, or a dilated convolution",
        check=graphs.dilated_pool,
        majors=(10, 11),
    ),
    Rule(
        name="type",
        severity=Severity.REFUSED,
        reason="TensorRT has no such type",
        remedy="Store it as int8, int32, int64 or float",
        check=quantizers.unreadable,
    ),
    Rule(
        name="zero-point",
        severity=Severity.REFUSED,
        reason="Quantization is symmetric",
        remedy="Quantize with zero point 0, or repair with --fix",
        check=quantizers.asymmetric,
        repairable=True,
    ),
    Rule(
        name="computed-zero-point",
        severity=Severity.REFUSED,
        reason="The zero point has to be a constant",
        remedy="Make it a constant",
        check=quantizers.computed_zero_point,
    ),
    Rule(
        name="scale",
        severity=Severity.REFUSED,
        reason="Every scale has to be positive, also that of a dead channel",
        remedy="Give dead channels a tiny positive scale; --fix does it where it is 0",
        check=quantizers.not_positive,
        repairable=True,
    ),
    # The parser and builder of TensorRT for RTX 1.7.1 take such a scale; the documentation of
    # the API of all versions says that it has to be a constant.
    Rule(
        name="computed-scale",
        severity=Severity.REFUSED,
        reason="The API documents that the scale has to be a constant",
        remedy="Quantize with constant scales",
        check=quantizers.computed_scale,
        majors=(8, 10),
    ),
    Rule(
        name="runtime-scale",
        severity=Severity.SLOW,
        reason="Fusion into INT8 kernels is documented for constant scales",
        remedy="Quantize with constant scales",
        check=quantizers.computed_scale,
        majors=(11,),
    ),
    Rule(
        name="codes",
        severity=Severity.REFUSED,
        reason="DequantizeLinear takes int8 and narrower types, so no uint8 weight, "
        "uint8 input or int32 bias",
        remedy="Quantize weights to int8 and leave the bias float, or repair with --fix",
        check=quantizers.code_kind,
        repairable=True,
    ),
    Rule(
        name="stray-codes",
        severity=Severity.REFUSED,
        reason="Only DequantizeLinear may read an int8 constant",
        remedy="Put DequantizeLinear right behind it",
        check=quantizers.stray_codes,
    ),
    Rule(
        name="blocked-scale",
        severity=Severity.REFUSED,
        reason="The builder fails on blocks of an int8 weight that is transposed, or "
        "multiplied with a batch of quantized matrices",
        remedy="Use one scale per output channel",
        check=layers.refused_blocks,
        majors=(10, 11),
    ),
    Rule(
        name="uint8-codes",
        severity=Severity.DIFFERS,
        reason="Codes are int8 whatever the model says, so what ONNX gives codes above 127 "
        "saturates",
        remedy="Give QuantizeLinear an int8 zero point, or repair with --fix",
        check=quantizers.unsigned_zero_point,
        repairable=True,
    ),
    Rule(
        name="blocked-product",
        severity=Severity.DIFFERS,
        reason="The builder sums over all blocks before it multiplies with their scales",
        remedy="Use one scale per output channel",
        check=layers.confused_blocks,
        majors=(10, 11),
    ),
    Rule(
        name="channel-activation",
        severity=Severity.SLOW,
        reason="INT8 kernels take one scale for an activation",
        remedy="Quantize activations with one scale",
        check=quantizers.per_channel_activation,
    ),
    Rule(
        name="summed-scale",
        severity=Severity.SLOW,
        reason="Scales along the axis that is summed over cannot be factored out",
        remedy="Use one scale per output channel",
        check=layers.reduced_scale,
    ),
    Rule(
        name="blocked-weight",
        severity=Severity.SLOW,
        reason="Weights in blocks are made float before the product",
        remedy="Use one scale per output channel",
        check=layers.slow_blocks,
        majors=(10, 11),
    ),
    Rule(
        name="half-quantized",
        severity=Severity.SLOW,
        reason="An INT8 kernel wants weight and activation in INT8",
        remedy="Quantize both",
        check=layers.half_quantized,
    ),
    Rule(
        name="attention",
        severity=Severity.SLOW,
        reason="The fused attention kernel wants q, k, v and softmax in INT8, or none of them",
        remedy="Quantize all four or none",
        check=attention.mixed_attention,
    ),
    Rule(
        name="float-output",
        severity=Severity.SPARSE,
        reason="Sparse INT8 kernels read and write INT8 (to our knowledge; not yet measured)",
        remedy="Put QuantizeLinear behind bias and activation: `--target tensorrt` does",
        check=layers.float_output,
    ),
    Rule(
        name="sparse-axis",
        severity=Severity.SPARSE,
        reason="Groups of four lie along the axis that the product sums over",
        remedy="Prune again: `gpusq compile --passes prune` finds the axis",
        check=layers.wrong_axis,
    ),
)
