"""What this machine can do: runtime flavour, providers, GPU, TensorRT, and how to get more."""

from __future__ import annotations

import platform

from gpusq_compiler.errors import MissingRuntime
from gpusq_compiler.runtime import flavour, smi
from gpusq_compiler.trt.engines import bindings

GPU_TRAINING = (
    "pip uninstall -y onnxruntime-training-cpu && pip install onnxruntime-training==1.19.2 "
    "(Linux, Python 3.11 or older, CUDA 11.8, cuDNN 8)"
)
Row = tuple[str, str, str]


def examine() -> list[Row]:
    """Rows of (feature, state, the line that installs what is missing)."""
    return [
        ("python", platform.python_version(), ""),
        *_runtime(),
        _gpu(),
        *_tensorrt(),
    ]


def _runtime() -> list[Row]:
    try:
        owner = flavour.require_one()
    except MissingRuntime as error:
        return [("onnxruntime", error.what, error.remedy)]
    import onnxruntime

    opset, ir_version = flavour.ceilings()
    providers = onnxruntime.get_available_providers()
    trains = flavour.can_train()
    has_cuda = "CUDAExecutionProvider" in providers
    return [
        ("onnxruntime", f"{owner} {flavour.installed()[owner]}", ""),
        ("runs", f"opset up to {opset}, IR version up to {ir_version}", ""),
        (
            "providers",
            ", ".join(name.removesuffix("ExecutionProvider") for name in providers),
            "",
        ),
        (
            "qat",
            "yes" if trains else "no gradient graphs in this build",
            "" if trains else f"pip uninstall -y {owner} && {flavour.INSTALL_TRAINING}",
        ),
        ("cuda training", "yes" if has_cuda else "no", "" if has_cuda else GPU_TRAINING),
    ]


def _gpu() -> Row:
    found = smi.asked("name", "driver_version")
    if found is None:
        return ("gpu", "none found (no nvidia-smi)", "an NVIDIA GPU and its driver")
    if not found:
        return ("gpu", "nvidia-smi finds none", "an NVIDIA GPU and its driver")
    return ("gpu", "; ".join(", ".join(values) for values in found), "")


def _tensorrt() -> list[Row]:
    """What is loaded is what works: the libraries of a package may be missing."""
    rows = []
    loaders = {"tensorrt": bindings.tensorrt, "build check": bindings.tensorrt_rtx}
    for feature, load in loaders.items():
        try:
            rows.append((feature, str(load()), ""))
        except MissingRuntime as error:
            rows.append((feature, error.what, error.remedy))
    return rows
