"""The check through cuSPARSELt, as far as it needs no GPU; what multiplies is a FAKE."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.gpu import cusparselt, gemms, pruned
from benchmarks.gpu.pruned import Layer
from benchmarks.gpu.torch_gpu import DENSE, SPARSE, VARIANTS, Gpu, Measured, NotThere, Timed
from gpusq_compiler import compile_model
from gpusq_compiler.ir import io
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.gpu.pruned import Codes, Sums

MODELS = Path(__file__).parents[2] / "models"
MICROSECONDS = {SPARSE: 10.0, DENSE: 12.0, "sparse_fp16": 15.0, "dense_fp16": 20.0}


@dataclasses.dataclass
class FakeDevice:
    """A FAKE: multiplies in NumPy, keeps two of four as the hardware does, invents times."""

    wrong: bool = False
    refuses: str = ""
    fails: Sequence[str] = ()
    compares: bool | None = True
    keeps_all: bool = False

    def about(self) -> dict[str, Any]:
        return {"device": "FAKE", "versions": {}}

    def product(self, codes: Codes, x: Codes) -> Sums:
        assert all(size % pruned.BLOCK == 0 for size in codes.shape)
        if self.refuses == "all" or (self.refuses and not pruned.is_sparse(codes)):
            raise RuntimeError("fake: CUSPARSE_STATUS_INVALID_VALUE\nmore")
        kept = codes.copy()
        if not self.keeps_all:
            groups = kept.reshape(len(codes), -1, 4)
            order = np.cumsum(groups != 0, axis=2)
            groups[order > 2] = 0
        found = np.einsum("nk,tk->nt", kept.astype(np.int64), x.astype(np.int64))
        return np.asarray(found + self.wrong, np.int32)

    def times(self, codes: Codes, x: Codes, seconds: float) -> Measured:
        if "all" in self.fails:
            raise RuntimeError("fake: no room")
        found: dict[str, Timed | str] = {
            name: Timed([us] * 100, graph=True) for name, us in MICROSECONDS.items()
        }
        found |= {name: f"{name} fails" for name in self.fails}
        return Measured(times=found, kernels={SPARSE: {"algorithm": 3}}, equal=self.compares)


def layer(outputs: int = 10, summed: int = 8, name: str = "fc") -> Layer:
    codes = np.arange(1, outputs * summed + 1).reshape(outputs, summed) % 100 + 1
    codes[:, 1::2] = 0
    return Layer(name=name, operator="MatMul", rows=4, codes=codes.astype(np.int8))


def report(
    device: FakeDevice, *layers: Layer, tokens: Sequence[int] = (64,)
) -> dict[str, Any]:
    about = {"model": "m", "sha256": "0", "left": []}
    found = cusparselt.run(
        device, about, layers or [layer()], tokens=tokens, seconds=0, command="c"
    )
    json.dumps(found, allow_nan=False)
    return found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the exporter makes of a compiled transformer."""
    folder = tmp_path_factory.mktemp("export")
    compile_model(
        MODELS / "vit_digits.onnx",
        passes="prune,quantize",
        out=folder / "m.onnx",
        workdir=folder / "work",
        threads=1,
    )
    gemms.write(folder / "m.onnx", folder / "m.npz")
    return folder / "m.npz"


def test_the_export_of_a_model(archive: Path) -> None:
    about, layers = pruned.load(archive)
    assert about["model"] == "m.onnx"
    assert about["left"] == []
    assert len(layers) == 17
    by_name = {one.name: one for one in layers}
    qkv, head = by_name["/blocks.0.attn.qkv/MatMul"], by_name["/head/Gemm"]
    assert (qkv.operator, qkv.rows, qkv.codes.shape) == ("MatMul", 16, (192, 64))
    assert (head.operator, head.rows, head.codes.shape) == ("Gemm", 1, (10, 64))
    model = io.load(archive.with_suffix(".onnx"))
    stored = tiny.weight(model, "blocks.0.attn.qkv.weight.codes")
    np.testing.assert_array_equal(qkv.codes, stored.T)


GEMM = "m (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w> { y = Gemm<transB = 1>(x, w) }"
BATCH = (
    "m (float[N, 3, 8, 8] x) => (float[N, 3, 8, 4] y) <float[3, 8, 4] w> { y = MatMul(x, w) }"
)
CONVOLUTIONS = """
m (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
<float[8, 8, 1, 1] w1, float[8, 8, 3, 3] w2, float[8, 4, 1, 1] w3, float[8, 8, 1, 1] w4> {
    a = Conv<strides = [1, 1]>(x, w1)
    b = Conv<pads = [1, 1, 1, 1]>(a, w2)
    c = Conv<group = 2>(b, w3)
    y = ConvTranspose(c, w4)
}"""


def claimed(text: str, codes: Sequence[str], **other: str) -> ir.Model:
    """A model whose weights claim a pattern and hold it, as codes where they are named."""
    model = ir.passes.common.ShapeInferencePass()(tiny.model_of(text)).model
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        values = value.const_value.numpy().copy()
        np.moveaxis(values, 1, -1)[..., 1::2] = 0
        values = np.rint(100 * values / np.abs(values).max()).astype(np.int8)
        dtype = np.int8 if name in codes else np.float32
        value.const_value = ir.tensor(values.astype(dtype), name=name)
        value.metadata_props["gpusq.sparsity"] = other.get(name, "2:4 axis=1")
    return model


def test_what_is_no_product_is_listed() -> None:
    model = claimed(CONVOLUTIONS, ["w1", "w2", "w3", "w4"])
    pointwise, *left = gemms.products(model)
    assert isinstance(pointwise, gemms.Gemm)
    assert (pointwise.codes.shape, pointwise.rows) == ((8, 8), 36)
    assert [one.reason for one in left if isinstance(one, gemms.Left)] == [
        "a 3x3 convolution is no product without im2col",
        "Conv in 2 groups is no single product",
        "ConvTranspose in 1 groups is no single product",
    ]


def test_float_weights_and_other_patterns_are_listed() -> None:
    (stored,) = gemms.products(claimed(GEMM, []))
    assert isinstance(stored, gemms.Left)
    assert stored.reason == "its weight is stored as FLOAT, not as codes"
    (other,) = gemms.products(claimed(GEMM, ["w"], w="4:8 axis=1"))
    assert isinstance(other, gemms.Left)
    assert other.reason == "its pattern is 4:8"


def test_batches_of_matrices_are_listed() -> None:
    (left,) = gemms.products(claimed(BATCH, ["w"]))
    assert isinstance(left, gemms.Left)
    assert left.reason == "its weight is a batch of matrices"


def test_a_broken_claim_stops_the_export() -> None:
    model = claimed(GEMM, ["w"])
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor(np.ones((8, 8), np.int8), name="w")
    with pytest.raises(SystemExit, match=r"not 2:4; see: gpusq check"):
        list(gemms.products(model))


def test_a_model_without_products_is_not_exported(tmp_path: Path) -> None:
    io.save(tiny.mlp(), tmp_path / "m.onnx")
    with pytest.raises(SystemExit, match=r"m\.onnx: no product"):
        gemms.write(tmp_path / "m.onnx", tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_no_archive(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"a\.npz: no archive of gemms\.py"):
        pruned.load(path)


def test_an_archive_that_is_not_sparse(tmp_path: Path) -> None:
    about = {"gemms": [{"name": "fc", "operator": "MatMul", "rows": 1}], "left": []}
    codes = np.ones((4, 4), np.int8)
    np.savez(tmp_path / "a.npz", about=np.array(json.dumps(about)), codes_0=codes)
    with pytest.raises(SystemExit, match="fc is no 2:4 matrix of int8"):
        pruned.load(tmp_path / "a.npz")


@pytest.mark.parametrize(("row", "holds"), [([1, 0, 2, 0], True), ([0, 1, 2, 3], False)])
def test_the_pattern(row: list[int], holds: bool) -> None:
    codes = np.array([[0, 0, 0, 0, *row], [1, 1, 0, 0, 0, 0, 1, 1]], np.int8)
    assert pruned.is_sparse(codes) is holds
    assert not pruned.is_sparse(codes[:, :6])


def test_the_reference_is_the_integer_product() -> None:
    """At the extremes of int8 and the length at which INT32 would be the next to overflow."""
    codes = np.full((2, 8192), -128, np.int8)
    codes[1] = 127 - np.arange(8192) % 3  # sums of odd values, which floats would round
    x = np.full((3, 8192), -128, np.int8)
    x[2] = np.arange(8192) % 5 - 127
    exact = [
        [sum(int(a) * int(b) for a, b in zip(c, r, strict=True)) for r in x] for c in codes
    ]
    assert pruned.reference(codes, x).tolist() == exact


def test_padding_changes_no_product() -> None:
    codes = layer().codes
    whole = pruned.padded(codes)
    assert whole.shape == (32, 32)
    assert pruned.is_sparse(whole)
    x = pruned.activations(5, 32, 0)
    assert np.all(x != 0)
    both = pruned.reference(whole, x)
    np.testing.assert_array_equal(both[:10], pruned.reference(codes, x[:, :8].copy()))
    assert not both[10:].any()


def test_exact_layers_and_caught_controls() -> None:
    found = report(FakeDevice(), layer(), layer(64, 64, "other"))
    assert found["all_exact"]
    assert found["all_controls_caught"]
    first, second = found["layers"]
    assert (first["shape"], first["run_as"], second["run_as"]) == ([10, 8], [32, 32], [64, 64])
    assert first["values"] == 32 * cusparselt.EXACT_TOKENS
    assert first["differing"] == 0
    assert first["control"].startswith("wrong product, ")


def test_a_refused_control_is_caught_too() -> None:
    (one,) = report(FakeDevice(refuses="dense"))["layers"]
    assert one["exact"]
    assert one["control"] == "refused: fake: CUSPARSE_STATUS_INVALID_VALUE"
    assert one["control_caught"]


def test_a_wrong_product_is_counted() -> None:
    found = report(FakeDevice(wrong=True))
    assert found["layers"][0]["differing"] == found["layers"][0]["values"]
    assert not found["all_exact"]


def test_a_refused_layer_is_not_exact() -> None:
    found = report(FakeDevice(refuses="all"))
    assert found["layers"][0]["failed"] == "fake: CUSPARSE_STATUS_INVALID_VALUE"
    assert not found["all_exact"]


def test_a_device_that_does_not_use_the_pattern_is_found_out() -> None:
    """One that multiplies dense is exact, and right about the control as well."""
    found = report(FakeDevice(keeps_all=True))
    assert found["all_exact"]
    assert not found["all_controls_caught"]


def test_the_product_that_was_timed_counts() -> None:
    assert not report(FakeDevice(compares=False))["all_exact"]
    assert report(FakeDevice(compares=None))["all_exact"]


def test_each_shape_is_timed_once() -> None:
    same = [layer(name=str(i)) for i in range(3)]
    found = report(FakeDevice(), *same, layer(40, 8, "other"), tokens=[10, 64])
    rows = [(row["shape"], row["layers"], row["tokens"]) for row in found["times"]]
    assert rows == [([32, 32], 3, 32), ([32, 32], 3, 64), ([64, 32], 1, 32), ([64, 32], 1, 64)]
    assert found["times"][0]["kernels"] == {SPARSE: {"algorithm": 3}}
    assert found["times"][0][SPARSE] == {
        "median_us": 10.0, "p99_us": 10.0, "graphs": 100, "graph": True
    }  # fmt: skip
    assert [total["layers"] for total in found["totals"]] == [4, 4]
    assert found["totals"][0][DENSE] == {"median_us": 48.0}
    # Of dense INT8, not of FP16.
    assert found["totals"][0]["sparse_gain"] == found["times"][0]["sparse_gain"] == 1.2


def test_a_variant_that_fails_is_said() -> None:
    found = report(FakeDevice(fails=[DENSE]))
    assert found["times"][0][DENSE] == {"failed": f"{DENSE} fails"}
    assert found["times"][0]["sparse_gain"] is None
    assert found["totals"][0][DENSE] == {"median_us": None}
    assert "failed" in cusparselt.summary(found)[-1]
    rows = report(FakeDevice(fails=["all"]))["times"]
    assert all(rows[0][name] == {"failed": "fake: no room"} for name in VARIANTS)


def test_few_graphs_have_no_p99() -> None:
    assert Timed([1.0] * 99, graph=False).as_json()["p99_us"] is None


@pytest.mark.parametrize("ending", [".npz", ".onnx"])
def test_one_line_without_a_gpu(
    ending: str,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def none(self: Gpu) -> None:
        raise NotThere("no GPU")

    monkeypatch.setattr(Gpu, "__init__", none)
    out = tmp_path / "r.json"
    given = archive.with_suffix(ending)
    assert cusparselt.main([str(given), "-o", str(out)]) == cusparselt.MISSING == 4
    assert capsys.readouterr().err == "cusparselt: nothing was measured: no GPU\n"
    assert not out.exists()


@pytest.mark.gpu
def test_on_this_gpu(archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs PyTorch")
    try:
        Gpu()
    except NotThere as error:
        pytest.skip(f"needs a GPU with cuSPARSELt: {error}")
    out = tmp_path / "r.json"
    given = [str(archive), "-o", str(out), "--tokens", "64", "--seconds", "0.1"]
    assert cusparselt.main(given) == 0
    assert json.loads(out.read_text())["all_exact"]
