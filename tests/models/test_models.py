"""The shipped models and their data are what models/README.md says they are."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

if TYPE_CHECKING:
    from types import ModuleType

MODELS = Path(__file__).parents[2] / "models"
FOLDERS = {
    "vit_digits": "digits",
    "resnet_digits": "digits",
    "sr_photos": "sr_photos",
    "text_python": "text_python",
}
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
INPUTS = {
    "digits": ("x", ["batch", 1, 8, 8], FLOAT),
    "sr_photos": ("x", ["batch", 1, "height", "width"], FLOAT),
    "text_python": ("ids", ["batch", 64], INT64),
}
OUTPUTS = {
    "digits": ("logits", ["batch", 10], FLOAT),
    "sr_photos": ("y", ["batch", 1, "height_2x", "width_2x"], FLOAT),
    "text_python": ("logits", ["batch", 96], FLOAT),
}


def load(folder: str, part: str) -> dict[str, Any]:
    with np.load(MODELS / folder / f"{part}.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def digits(part: str) -> dict[str, Any]:
    return load("digits", part)


def run(model: onnx.ModelProto, x: Any, *more: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (x, *more), strict=True)))[0]


def inputs_of(name: str) -> Any:
    folder = FOLDERS[name]
    return load(folder, "test")[INPUTS[folder][0]]


def accuracy(logits: Any, labels: Any) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def psnr(y: Any, target: Any) -> float:
    return float(-10 * np.log10(np.mean((y - target) ** 2)))


def structure(model: onnx.ModelProto) -> tuple[object, ...]:
    """Everything but the values of the initializers."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    shapes = [(t.name, t.data_type, tuple(t.dims)) for t in bare.graph.initializer]
    bare.graph.ClearField("initializer")
    return (*shapes, bare.SerializeToString(deterministic=True))


@pytest.fixture(params=FOLDERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shipped(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"{name}.onnx")


@pytest.fixture(params=("vit_digits", "resnet_digits"))
def digit_network(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return onnx.load(MODELS / f"{request.param}.onnx")


@pytest.fixture
def architectures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(MODELS))
    return importlib.import_module("architectures")


def declared(value: onnx.ValueInfoProto) -> tuple[str, list[int | str], int]:
    tensor = value.type.tensor_type
    return value.name, [d.dim_param or d.dim_value for d in tensor.shape.dim], tensor.elem_type


# data


@pytest.mark.parametrize(("part", "count"), [("train", 1297), ("test", 500)])
def test_digits_have_the_promised_shapes_types_and_range(part: str, count: int) -> None:
    data = digits(part)
    assert set(data) == {"x", "labels"}
    assert data["x"].shape == (count, 1, 8, 8)
    assert data["x"].dtype == np.float32
    assert data["labels"].shape == (count,)
    assert data["labels"].dtype == np.int64
    assert data["x"].min() == 0
    assert data["x"].max() == 1
    np.testing.assert_array_equal(data["x"] * 16, np.round(data["x"] * 16))


def test_no_digit_is_in_both_parts() -> None:
    train, test = ({x.tobytes() for x in digits(part)["x"]} for part in ("train", "test"))
    assert len(train) == 1297
    assert len(test) == 500
    assert not train & test


def test_split_is_stratified() -> None:
    train, test = (
        np.bincount(digits(part)["labels"], minlength=10) for part in ("train", "test")
    )
    expected = (train + test) * 500 / 1797
    assert np.abs(test - expected).max() < 1


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    source = datasets.load_digits()
    images = (source.images / 16).astype(np.float32)
    known = {x.tobytes(): int(y) for x, y in zip(images, source.target, strict=True)}
    for part in ("train", "test"):
        data = digits(part)
        assert [known[x.tobytes()] for x in data["x"]] == data["labels"].tolist()


# shipped files


def test_file_is_valid_onnx_without_external_data(shipped: onnx.ModelProto) -> None:
    onnx.checker.check_model(shipped, full_check=True)
    assert shipped.ir_version == 8
    assert [(i.domain, i.version) for i in shipped.opset_import] == [("", 17)]
    assert not any(t.external_data for t in shipped.graph.initializer)
    assert shipped.ByteSize() < 2_500_000


def test_input_and_output_are_as_promised(name: str, shipped: onnx.ModelProto) -> None:
    (given,), (found,) = shipped.graph.input, shipped.graph.output
    assert declared(given) == INPUTS[FOLDERS[name]]
    assert declared(found) == OUTPUTS[FOLDERS[name]]


def test_batch_is_free_and_samples_do_not_mix(name: str, shipped: onnx.ModelProto) -> None:
    x = inputs_of(name)[:7]
    together = run(shipped, x)
    alone = np.concatenate([run(shipped, x[i : i + 1]) for i in range(7)])
    assert len(together) == 7
    # float32 sums in another order: a few hundred roundings of 6e-8 on logits of about 10
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_dense_accuracy_on_the_test_digits(digit_network: onnx.ModelProto) -> None:
    test = digits("test")
    assert accuracy(run(digit_network, test["x"]), test["labels"]) >= 0.97


def test_every_learned_value_is_finite_and_matters(shipped: onnx.ModelProto) -> None:
    for tensor in shipped.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        assert np.isfinite(value).all(), tensor.name
        assert value.any(), tensor.name


def test_builder_gives_the_graph_of_the_shipped_file(
    name: str, shipped: onnx.ModelProto, architectures: ModuleType
) -> None:
    assert structure(ir.to_proto(architectures.build(name))) == structure(shipped)


def test_vision_transformer_is_written_as_exporters_write_it() -> None:
    graph = onnx.load(MODELS / "vit_digits.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("LayerNormalization") == 9
    assert operators.count("Erf") == 4
    assert operators.count("Softmax") == 4
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for block in range(4):
        assert shapes[f"blocks.{block}.attn.qkv.weight"] == (64, 192)
    assert shapes["patch_embed.proj.weight"] == (64, 1, 2, 2)


def test_residual_network_keeps_batch_normalization_in_place() -> None:
    graph = onnx.load(MODELS / "resnet_digits.onnx").graph
    producers = {name: node for node in graph.node for name in node.output}
    normalizations = [n for n in graph.node if n.op_type == "BatchNormalization"]
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert len(normalizations) == len(convolutions) == 15
    for node in normalizations:
        assert producers[node.input[0]].op_type == "Conv"
        assert len(node.output) == 1
        assert not any(a.name == "training_mode" and a.i for a in node.attribute)


def test_residual_network_has_three_stages_and_enough_weights() -> None:
    graph = onnx.load(MODELS / "resnet_digits.onnx").graph
    kernels = {t.name: tuple(t.dims) for t in graph.initializer if len(t.dims) == 4}
    widths = [kernels[f"layer{stage}.0.conv1.weight"][0] for stage in (1, 2, 3)]
    assert len(set(widths)) == 3
    assert all(shape[0] % 8 == 0 for shape in kernels.values())
    assert sum(int(np.prod(shape)) for shape in kernels.values()) >= 60_000
    assert sum(node.op_type == "Add" for node in graph.node) == 6


# how they were made


def test_running_statistics_are_those_of_all_training_digits(
    architectures: ModuleType,
) -> None:
    x = digits("train")["x"]
    shipped = onnx.load(MODELS / "resnet_digits.onnx")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in shipped.graph.initializer}
    training = architectures.build("resnet_digits", training=True)
    architectures.fill(training, values)
    # with all training digits as one batch, batch statistics are the running ones
    logits = run(ir.to_proto(training), x)
    np.testing.assert_allclose(run(shipped, x), logits, rtol=1e-3, atol=1e-3)


def test_training_form_of_batch_normalization_normalizes_the_batch(
    architectures: ModuleType,
) -> None:
    model = architectures.build("resnet_digits", training=True)
    proto = ir.to_proto(model)
    proto.graph.output.append(onnx.ValueInfoProto(name="/bn1/Add_1_output_0"))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    x = digits("train")["x"][:64]
    (normalized,) = session.run(["/bn1/Add_1_output_0"], {"x": x})
    # gain 1 and bias 0 at the start; epsilon pulls the deviation a little below 1
    np.testing.assert_allclose(normalized.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(normalized.std(axis=(0, 2, 3)), 1, atol=2e-2)
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)


def test_same_seed_gives_the_same_start_and_another_seed_another(
    name: str, architectures: ModuleType
) -> None:
    first, again, other = (
        ir.to_proto(architectures.build(name, seed=seed)).SerializeToString()
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.training
def test_training_again_gives_a_valid_file_and_the_same_bytes(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(MODELS))
    train = importlib.import_module("train")
    first, again = tmp_path / "first.onnx", tmp_path / "again.onnx"
    for path in (first, again):
        train.main([name, "--steps", "3", "-o", str(path)])
    assert "3 steps" in capsys.readouterr().out
    assert first.read_bytes() == again.read_bytes()
    model = onnx.load(first)
    onnx.checker.check_model(model, full_check=True)
    assert structure(model) == structure(onnx.load(MODELS / f"{name}.onnx"))
    assert first.read_bytes() != (MODELS / f"{name}.onnx").read_bytes()
    assert str(tmp_path) not in first.read_bytes().decode("latin-1")
