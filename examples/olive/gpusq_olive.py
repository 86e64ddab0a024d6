"""gpusq-compiler as a pass of Olive: what its data config loads is what we calibrate on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from olive.data.config import DataConfig
from olive.model import ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from gpusq_compiler import compile_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from olive.hardware import AcceleratorSpec


class GpusqCompile(Pass):
    """Prune 2:4, quantize to INT8 and, where asked, fine-tune."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        """Options of this step in the run config."""
        del accelerator_spec
        return {
            "passes": PassConfigParam(
                type_=str, default_value="prune,qat", description="As --passes has them"
            ),
            "target": PassConfigParam(
                type_=str, default_value="onnxruntime", description="Or tensorrt"
            ),
            "data_config": PassConfigParam(
                type_=DataConfig | dict, required=True, description="Samples, labels or not"
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        """Compile the file of the step before into the folder that Olive wants."""
        out = Path(output_model_path).with_suffix("") / "model.onnx"
        out.parent.mkdir(parents=True, exist_ok=True)
        compile_model(
            model.model_path,
            passes=config.passes,
            target=config.target,
            data=feeds(config.data_config),
            out=out,
            workdir=out.parent / ".gpusq",
        )
        return ONNXModelHandler(model_path=str(out.parent), onnx_file_name=out.name)


def feeds(data_config: DataConfig | dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """The batches of an Olive data loader, named as our inputs are."""
    if isinstance(data_config, dict):
        data_config = DataConfig(**data_config)
    for inputs, labels in data_config.to_data_container().create_dataloader():
        yield {**{name: one.numpy() for name, one in inputs.items()}, "labels": labels.numpy()}
