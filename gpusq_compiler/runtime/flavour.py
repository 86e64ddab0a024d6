"""Which ONNX Runtime is installed, what it can load, and what it can do."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util

from gpusq_compiler.errors import MissingRuntime

DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
)
OLDEST = (21, 10)
"""The newest (opset, IR version) that every supported ONNX Runtime loads: that of 1.19."""
INSTALL_TRAINING = "pip install onnxruntime-training-cpu==1.19.2"


def installed() -> dict[str, str]:
    """Distributions that own the ``onnxruntime`` import, with their versions."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def require_one() -> str:
    """Name of the one installed distribution.

    Raises:
        MissingRuntime: None is installed, or several overwrite each other.
    """
    found = installed()
    if not found:
        raise MissingRuntime(
            "ONNX Runtime is not installed", remedy=f"Type: {INSTALL_TRAINING}"
        )
    if len(found) > 1:
        names = " ".join(found)
        raise MissingRuntime(
            f"{' and '.join(found)} are both installed and overwrite each other's files",
            remedy=f"Type: pip uninstall -y {names} && {INSTALL_TRAINING}",
        )
    return next(iter(found))


def can_train() -> bool:
    """Whether the installed runtime builds gradient graphs."""
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    from onnxruntime.capi import _pybind_state

    return hasattr(_pybind_state, "GradientGraphBuilder")


def require_training() -> None:
    """Raise unless the installed runtime can train.

    Raises:
        MissingRuntime: It cannot; the message says why and what to install.
    """
    owner = require_one()
    if not can_train():
        raise MissingRuntime(
            f"{owner} {installed()[owner]} cannot train: gradient graphs need the training "
            "build, which exists for Python 3.8 to 3.12 on x86-64 and macOS",
            where="qat",
            remedy=f"Type: pip uninstall -y {owner} && {INSTALL_TRAINING}",
        )


def may_refuse(opset: int, ir_version: int) -> bool:
    """Whether there are supported runtimes for which a model is too new."""
    return opset > OLDEST[0] or ir_version > OLDEST[1]


@functools.cache
def ceilings() -> tuple[int, int]:
    """The newest (opset, IR version) that the installed runtime loads, found by asking it."""
    import onnx

    newest_opset = onnx.defs.onnx_opset_version()
    ir_version = next(i for i in range(onnx.IR_VERSION, 2, -1) if _loads(13, i))
    opset = next(o for o in range(newest_opset, 12, -1) if _loads(o, ir_version))
    return opset, ir_version


def refusals() -> tuple[type[Exception], ...]:
    """The exception types with which the runtime refuses a model or its inputs."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type)]
    return (*(kind for kind in own if issubclass(kind, Exception)), RuntimeError, ValueError)


def _loads(opset: int, ir_version: int) -> bool:
    import onnx
    import onnxruntime

    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", [x], [y]
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except refusals():
        return False
    return True
