"""How engines are built with TensorRT 8.6, 10 and 11: on FAKES, which build nothing.

What is shown is what the API is asked for, and that no name is touched that a version lacks.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gpusq_compiler.errors import (
    FileError,
    GpusqError,
    MissingRuntime,
    ModelError,
    OptionError,
    PostconditionError,
)
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.trt.engines import bindings
from gpusq_compiler.trt.engines.build import build
from gpusq_compiler.trt.engines.deploy import absent, deploy
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.profiles import Shapes
from tests.trt.cases import CASES
from tests.trt.fakes import SERIALIZED, VERSIONS, FakeDriver, FakeTensorRT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPARSE = "sparse, int8 behind bias and Relu"
TYPED = tuple(version for version in VERSIONS if version != "8.6")
FREE = '<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) '


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorRT]:
    """Installs the fake of a version, and a fake GPU."""

    def install(version: str, **behaviour: Any) -> FakeTensorRT:
        made = FakeTensorRT(version, **behaviour)
        monkeypatch.setitem(sys.modules, "tensorrt", made)
        monkeypatch.setattr(bindings, "cuda_driver", FakeDriver)
        return made

    return install


class Notes(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A sparse INT8 product."""
    path = tmp_path / "m.onnx"
    onnx.save(next(case for case in CASES if case.name == SPARSE).proto(), path)
    return path


def write(path: Path, text: str, **constants: Any) -> Path:
    proto = onnx.parser.parse_model(text)
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(proto, path)
    return path


def asked(fake: FakeTensorRT, name: str) -> list[Any]:
    """The arguments of every call of this name."""
    found = [call[1:] for call in fake.calls if call[0] == name]
    return [arguments[0] if len(arguments) == 1 else arguments for arguments in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_in_every_version(
    version: str, fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    """The real names of the version are all that is touched: others raise in the fake."""
    trt = fake(version)
    model = write(tmp_path / "m.onnx", FREE + "{ y = Relu(x) }")
    plugin, cache = tmp_path / "plugin.so", tmp_path / "cache"
    plugin.touch()
    cache.mkdir()
    options = EngineOptions(
        shapes=Shapes.parse("x:1x4", "x:2x4", "x:8x4"),
        timing_cache=cache,
        workspace=64,
        hardware="ampere+",
        version_compatible=True,
        optimization_level=5,
        plugins=(plugin,),
    )
    info = build(model, tmp_path / "m.engine", options)
    assert asked(trt, "OnnxParser.parse_from_file") == [str(model)]
    assert asked(trt, "IOptimizationProfile.set_shape") == [("x", (1, 4), (2, 4), (8, 4))]
    assert asked(trt, "IBuilderConfig.set_memory_pool_limit") == [("WORKSPACE", 64 << 20)]
    assert asked(trt, "IBuilderConfig.builder_optimization_level") == [5]
    assert str(asked(trt, "IBuilderConfig.hardware_compatibility_level")[0]).endswith(
        "AMPERE_PLUS"
    )
    assert asked(trt, "IPluginRegistry.load_library") == [str(plugin)]
    assert asked(trt, "IBuilderConfig.plugins_to_serialize") == [[str(plugin)]]
    assert asked(trt, "Runtime.engine_host_code_allowed") == [True]
    assert asked(trt, "IExecutionContext.set_input_shape") == [("x", (2, 4))]
    assert info.flags == ("SPARSE_WEIGHTS", "VERSION_COMPATIBLE")
    assert info.profiles[0].largest == (8, 4)
    assert (tmp_path / "m.engine").read_bytes() == SERIALIZED


@pytest.mark.parametrize("version", VERSIONS)
def test_details_are_asked_for_before_the_build(
    version: str, fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    trt = fake(version)
    build(model, tmp_path / "m.engine")
    names = [call[0] for call in trt.calls]
    verbosity = names.index("IBuilderConfig.profiling_verbosity")
    assert trt.calls[verbosity][1].name == "DETAILED"
    assert verbosity < names.index("Builder.build_serialized_network")


def test_eight_takes_types_by_flags(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    trt = fake("8.6")
    info = build(model, tmp_path / "m.engine")
    assert asked(trt, "Builder.create_network") == [["EXPLICIT_BATCH"]]
    assert asked(trt, "IBuilderConfig.set_flag") == ["SPARSE_WEIGHTS", "INT8"]
    assert not info.typed
    build(model, tmp_path / "m.engine", EngineOptions(fp16=True, int8=False))
    assert asked(trt, "IBuilderConfig.set_flag")[2:] == ["SPARSE_WEIGHTS", "FP16"]


def test_eight_runs_in_half_precision_what_the_model_has_so(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    trt = fake("8.6")
    for number, text in enumerate(
        (
            "g (float16[4] x) => (float16[4] y) { y = Relu(x) }",
            "g (float[4] x) => (float[4] y) { h = Cast<to = 10>(x) y = Cast<to = 1>(h) }",
            "g (float[4] x) => (float[4] y) { y = Relu(x) }",
        )
    ):
        header = '<ir_version: 9, opset_import: ["" : 17]>'
        model = write(tmp_path / f"{number}.onnx", header + text)
        build(model, tmp_path / "m.engine")
    assert asked(trt, "Builder.build_serialized_network") == [
        ["FP16", "SPARSE_WEIGHTS"],
        ["FP16", "SPARSE_WEIGHTS"],
        ["SPARSE_WEIGHTS"],
    ]


@pytest.mark.parametrize("version", TYPED)
def test_later_versions_take_types_from_the_model(
    version: str, fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    trt = fake(version)
    info = build(model, tmp_path / "m.engine")
    explicit = [] if version == "11.4" else ["EXPLICIT_BATCH"]
    assert asked(trt, "Builder.create_network") == [[*explicit, "STRONGLY_TYPED"]]
    assert asked(trt, "IBuilderConfig.set_flag") == ["SPARSE_WEIGHTS"]
    assert info.typed
    with pytest.raises(OptionError, match="takes types from the model") as caught:
        build(model, tmp_path / "m.engine", EngineOptions(fp16=True))
    assert caught.value.where == "--fp16"


def test_a_flag_that_a_version_may_lose(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    trt = fake("11.4")
    del trt.BuilderFlag.SPARSE_WEIGHTS
    with pytest.raises(OptionError, match="has no builder flag SPARSE_WEIGHTS"):
        build(model, tmp_path / "m.engine")


def test_dense_engines_are_not_asked_for_sparse_tactics(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    trt = fake("11.4")
    assert build(model, tmp_path / "m.engine", EngineOptions(sparse_weights=False)).flags == ()
    assert asked(trt, "IBuilderConfig.set_flag") == []


@pytest.mark.parametrize(
    ("version", "known"), [("8.6", False), ("10.0", False), ("10.16", True), ("11.4", True)]
)
def test_compatibility_that_a_version_may_lack(
    version: str, known: bool, fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    fake(version)
    options = EngineOptions(hardware="same-compute-capability")
    if known:
        build(model, tmp_path / "m.engine", options)
        return
    with pytest.raises(OptionError, match="knows no compatibility 'same-compute"):
        build(model, tmp_path / "m.engine", options)


def test_weights_in_a_data_file_are_left_to_the_parser(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    """The file is read by its path, from whatever folder, so the data beside it is found."""
    trt = fake("11.4")
    text = FREE.replace("N", "2") + "{ y = MatMul(x, w) }"
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    model = tmp_path / "m.onnx"
    onnx.save(proto, model, save_as_external_data=True, location="m.data", size_threshold=0)
    build(model, tmp_path / "m.engine")
    assert asked(trt, "OnnxParser.parse_from_file") == [str(model)]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_that_the_parser_refuses(
    version: str, fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    """8.6 tells the number of the node alone, later versions its name."""
    fake(version, unknown_operators=("Sin", "Cos"))
    text = FREE.replace("N", "2") + "{ a = Relu(x) [b] b = Sin(a) y = Cos(b) }"
    text = text.replace("[b] ", "")
    model = write(tmp_path / "m.onnx", text)
    before = set(tmp_path.iterdir())
    with pytest.raises(ModelError) as caught:
        build(model, tmp_path / "m.engine")
    line = str(caught.value)
    assert caught.value.exit_code == 1
    assert f"{model}, Sin 'b': TensorRT {version}" in line
    assert (
        "refuses it: unsupported node: No importer registered for op: Sin, and 1 more" in line
    )
    assert set(tmp_path.iterdir()) == before


def test_what_lint_knows_is_said_in_its_words(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    fake("8.6", unknown_operators=("Gelu",))
    text = FREE.replace("17", "20").replace("N", "2") + "{ y = Gelu(x) }"
    model = write(tmp_path / "m.onnx", text)
    with pytest.raises(ModelError, match=r"Gelu 'y'.*no Gelu; it is imported since 10\.1"):
        build(model, tmp_path / "m.engine")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_free_dimension_without_shapes(
    version: str, fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    fake(version)
    model = write(tmp_path / "m.onnx", FREE + "{ y = Relu(x) }")
    with pytest.raises(OptionError) as caught:
        build(model, tmp_path / "m.engine")
    assert caught.value.exit_code == 2
    line = str(caught.value)
    assert line.startswith("input 'x': dimensions are free in 'x' [N, 4]. Give --opt-shapes")
    assert "x:1x4" in line
    assert "--min-shapes and --max-shapes" in line


def test_what_the_builder_says_without_its_source(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    trt = fake("11.4")
    said = (
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
        "implementation for node m. In computeCosts at optimizer.cpp:4000)"
    )
    monkeypatch.setattr(trt, "complaint", lambda network, config: said)
    with pytest.raises(ModelError) as caught:
        build(model, tmp_path / "m.engine")
    assert "refuses it: Could not find any implementation for node m. Export" in str(
        caught.value
    )


def test_an_input_whose_values_are_a_shape(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    fake("11.4", shape_inputs=("s",))
    text = FREE.replace("float[N, 4] x", "float[4] x, int64[2] s").replace(
        "float[N, 4] y", "float[A, B] y"
    )
    model = write(tmp_path / "m.onnx", text + "{ y = Reshape(x, s) }")
    with pytest.raises(ModelError, match=r"input 's': its values are used as a shape"):
        build(model, tmp_path / "m.engine")


def test_timings_are_kept_by_version_gpu_and_flags(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    trt, cache = fake("10.16"), tmp_path / "cache"
    cache.mkdir()
    notes = Notes()
    options = EngineOptions(timing_cache=cache)
    build(model, tmp_path / "m.engine", options, events=notes)
    (file,) = cache.iterdir()
    assert file.name == "tensorrt-10.16.1.2-a-fake-gpu-none-sparse-weights.timing"
    build(model, tmp_path / "m.engine", options, events=notes)
    assert asked(trt, "IBuilderConfig.set_timing_cache") == [(b"", False), (b"|timed", False)]
    dense = EngineOptions(timing_cache=cache, sparse_weights=False)
    build(model, tmp_path / "m.engine", dense)
    assert len(list(cache.iterdir())) == 2
    assert (
        notes.said == ["TensorRT 10.16.1.2 builds for a fake GPU, which can take minutes"] * 2
    )
    file.write_bytes(b"of another GPU")
    build(model, tmp_path / "m.engine", options, events=notes)
    assert "is made anew" in notes.said[-1]
    assert file.read_bytes() == b"|timed"


def test_plugins_that_cannot_be_loaded(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    fake("11.4")
    broken = tmp_path / "broken.so"
    with pytest.raises(FileError, match="there is no such library"):
        build(model, tmp_path / "m.engine", EngineOptions(plugins=(broken,)))
    broken.touch()
    with pytest.raises(FileError, match=r"broken\.so: .* cannot load the plugins"):
        build(model, tmp_path / "m.engine", EngineOptions(plugins=(broken,)))


def test_an_engine_that_cannot_be_loaded(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    fake("11.4", engine_fails=True)
    with pytest.raises(PostconditionError, match="cannot be loaded here"):
        build(model, tmp_path / "m.engine")
    assert not (tmp_path / "m.engine").exists()


def test_what_is_known_of_the_engine(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    layers = [
        {
            "Name": "m + n + h",
            "LayerType": "CaskGemmMatrixMultiply",
            "Inputs": [{"Name": "d", "Format/Datatype": "Row major INT8 format"}],
            "Outputs": [{"Name": "qy", "Format/Datatype": "Row major INT8 format"}],
            "Weights": {"Type": "Int8", "Count": 128},
            "TacticName": "sm80_xmma_sparse_gemm_i8i8",
        }
    ]
    log = (
        "(Sparsity) Found 1 layer(s) eligible to use sparse tactics: m + n + h",
        "(Sparsity) Chose 1 layer(s) using sparse tactics: m + n + h",
    )
    fake("11.4", log=log, inspected=json.dumps({"Layers": layers}))
    info = build(model, tmp_path / "m.engine")
    (layer,) = info.evidence.layers
    assert (layer.reads, layer.writes, layer.chosen) == ("int8", "int8", True)
    assert info.evidence.chosen_int8 == 1
    written = json.loads((tmp_path / "m.engine.json").read_text())
    assert written["format"] == 1
    assert written["tensorrt"] == "TensorRT 11.4.1.2"
    assert written["device"] == "a fake GPU"
    assert written["capability"] == "8.6"
    assert written["size"] == len(SERIALIZED)
    assert written["evidence"]["basis"] == "measured"
    assert written["evidence"]["layers"][0]["tactic"] == "sm80_xmma_sparse_gemm_i8i8"
    assert written["layers"][0]["nodes"] == ["h", "m", "n"]
    assert written["precisions"] == {"int8": 1}
    assert (tmp_path / "m.engine.log").read_text().splitlines() == list(log)


def test_a_gpu_without_sparse_tensor_cores(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    fake("10.0", log=("(Sparsity) Found 1 layer(s) eligible to use sparse tactics: m",))
    monkeypatch.setattr(bindings, "cuda_driver", lambda: FakeDriver(capability=(7, 5)))
    (layer,) = build(model, tmp_path / "m.engine").evidence.layers
    assert layer.chosen is False
    assert layer.reason == "the GPU has compute capability 7.5, below 8.0"


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    fake("11.4")
    engine = tmp_path / "m.engine"
    engine.write_bytes(b"an older engine")
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError) as caught:
        build(model, engine)
    assert caught.value.exit_code == 6
    assert str(caught.value) == (
        f"{engine}: cannot be written: No space left on device. "
        "Make room, or choose another with -o"
    )
    assert engine.read_bytes() == b"an older engine"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("engine", "said"),
    [("no/m.engine", "the folder does not exist"), ("m.onnx", "would overwrite a file")],
)
def test_places_that_cannot_be_written(
    engine: str, said: str, fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    trt = fake("11.4")
    with pytest.raises(FileError, match=said):
        build(model, tmp_path / engine)
    assert asked(trt, "OnnxParser.parse_from_file") == []


def test_a_cache_that_is_no_folder(
    fake: Callable[..., FakeTensorRT], model: Path, tmp_path: Path
) -> None:
    fake("11.4")
    with pytest.raises(FileError, match=r"nowhere: there is no such folder"):
        build(model, tmp_path / "e", EngineOptions(timing_cache=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"hardware": "ampere"}, "--hardware"),
        ({"workspace": 0}, "--workspace"),
        ({"optimization_level": 6}, "--optimization-level"),
        ({"optimization_level": -1}, "--optimization-level"),
    ],
)
def test_options_that_no_version_takes(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(OptionError) as caught:
        EngineOptions(**fields)
    assert caught.value.where == where


@pytest.mark.parametrize("missing", ["tensorrt", "gpu", "driver"])
def test_without_tensorrt_or_gpu_there_is_a_script(
    missing: str,
    fake: Callable[..., FakeTensorRT],
    model: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    fake("11.4", builder_fails=missing == "driver")
    if missing == "tensorrt":
        monkeypatch.setitem(sys.modules, "tensorrt", None)
    if missing == "gpu":
        monkeypatch.setattr(bindings, "cuda_driver", lambda: FakeDriver(count=0))
    with pytest.raises(MissingRuntime) as caught:
        deploy(model, tmp_path / "m.engine")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'm.engine'}: no engine was built, ")
    assert f"{tmp_path / 'm.engine.trtexec.sh'} builds it on its device" in line
    made = {path.name for path in tmp_path.iterdir()}
    beside = {"m.engine.trtexec.sh", "m.engine.ort.json", "m.engine.ort.py"}
    assert made == {"m.onnx", *beside}
    assert bool(absent()) == (missing != "driver")


def test_one_line_each(fake: Callable[..., FakeTensorRT], tmp_path: Path) -> None:
    fake("11.4", unknown_operators=("Relu",))
    model = write(tmp_path / "m.onnx", FREE.replace("N", "2") + "{ y = Relu(x) }")
    with pytest.raises(GpusqError) as caught:
        deploy(model, tmp_path / "m.engine")
    assert "\n" not in str(caught.value)
