"""What this machine can do: runtime flavour, providers, GPU, TensorRT, and how to get more."""

from __future__ import annotations

import platform
import shutil
import subprocess

from gpusq_compiler.errors import MissingRuntime
from gpusq_compiler.runtime import flavour
from gpusq_compiler.trt import bindings

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
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ("gpu", "none found (no nvidia-smi)", "an NVIDIA GPU and its driver")
    asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    lines = answer.stdout.strip().splitlines()
    if answer.returncode or not lines:
        return ("gpu", "nvidia-smi finds none", "an NVIDIA GPU and its driver")
    return ("gpu", "; ".join(lines), "")


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
