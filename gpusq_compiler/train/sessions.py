"""Sessions for training, and how they run a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpusq_compiler.runtime import flavour
from gpusq_compiler.runtime.session import providers, session_options
from gpusq_compiler.train.gradients.gradient import explained

if TYPE_CHECKING:
    from gpusq_compiler.train.job import TrainJob


def on_cpu(device: str) -> bool:
    """Whether graphs run on the CPU, whose kernels `kernels` knows."""
    return providers(device) == ["CPUExecutionProvider"]


def training_options(*, threads: int | None = None, as_written: bool = False) -> Any:
    """Options that keep memory low.

    Args:
        threads: Threads per operator; None lets the runtime choose.
        as_written: Whether the nodes run as they are and in the order in which they stand.
    """
    import onnxruntime

    options = session_options(threads=threads, optimize=not as_written)
    # The runtime plans memory in the first run and holds what that run took besides.
    options.enable_mem_pattern = False
    # It would take our own quantizers for those of a model that is to be deployed.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if as_written:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return options


def session_of(model: bytes, job: TrainJob, *, as_written: bool = False) -> Any:
    """A session for training.

    Raises:
        TrainingError: The runtime refuses the graph.
    """
    import onnxruntime

    options = training_options(threads=job.threads, as_written=as_written)
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers(job.device))
    except flavour.refusals() as error:
        raise explained(error) from error
