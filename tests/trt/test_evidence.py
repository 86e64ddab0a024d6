"""Evidence from logs and inspectors.

The logs and layers here are CONSTRUCTED, from the wordings that NVIDIA's guide and examples
show and from the form that the builder of TensorRT for RTX gives its lists; none was printed
by a TensorRT that chose a sparse kernel.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from gpusq_compiler.errors import DataError, FileError, ModelError
from gpusq_compiler.trt.engines import enginelayers
from gpusq_compiler.trt.engines.buildlog import sparsity_pairs
from gpusq_compiler.trt.engines.elsewhere import evidence_of
from gpusq_compiler.trt.engines.evidence import (
    HEADINGS,
    MEASURED,
    PREDICTED,
    SLOWER,
    Evidence,
    measured,
    predicted,
    without_sparse_cores,
)
from gpusq_compiler.trt.engines.names import NodeNames, foreign_nodes, metadata_names
from tests import tiny
from tests.trt.chains import chain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

PREFIX = "[03/23/2021-00:14:05] [I] [TRT] "


def eight(eligible: str, chosen: str, prefix: str = "") -> list[str]:
    picked = "TRT inference plan picked sparse implementation for layers"
    return [
        f"{prefix}(Sparsity) Layers eligible for sparse math: {eligible}",
        f"{prefix}(Sparsity) {picked}: {chosen}",
    ]


def ten(eligible: str, chosen: str, prefix: str = "") -> list[str]:
    one, two = (len(names.split(", ")) if names else 0 for names in (eligible, chosen))
    return [
        f"{prefix}(Sparsity) Found {one} layer(s) eligible to use sparse tactics: {eligible}",
        f"{prefix}(Sparsity) Chose {two} layer(s) using sparse tactics: {chosen}",
    ]


def of(
    model: ir.Model, lines: Sequence[str], layers: Sequence[dict[str, Any]] = ()
) -> Evidence:
    names = NodeNames(model, lines)
    text = json.dumps({"Layers": list(layers)})
    return measured(model, lines, enginelayers.from_inspector(text, names), names)


def states(evidence: Evidence) -> list[tuple[bool | None, bool | None]]:
    return [(layer.eligible, layer.chosen) for layer in evidence.layers]


def kernel(name: str, tactic: str, **more: Any) -> dict[str, Any]:
    """A layer as the inspector of 8.6 shows it."""
    return {
        "Name": name,
        "LayerType": "CaskGemmMatrixMultiply",
        "Inputs": [{"Name": "a", "Format/Datatype": "Thirty-two wide channel INT8 format"}],
        "Outputs": [{"Name": "b", "Format/Datatype": "Row major linear FP16 format"}],
        "Weights": {"Type": "Int8", "Count": 64},
        "TacticName": tactic,
        **more,
    }


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("said", [eight, ten])
def test_both_wordings(said: Any, prefix: str) -> None:
    lines = ["something else", *said("fc0, fc1, fc2", "fc1", prefix), "more"]
    (pair,) = sparsity_pairs(lines)
    assert (pair.eligible.count, pair.eligible.text) == (3, "fc0, fc1, fc2")
    assert pair.chosen is not None
    assert (pair.chosen.count, pair.chosen.text) == (1, "fc1")
    found = of(chain(3), lines)
    assert found.basis == MEASURED
    assert states(found) == [(True, False), (True, True), (True, False)]


@pytest.mark.parametrize("said", [eight, ten])
def test_nothing_chosen(said: Any) -> None:
    found = of(chain(2), said("fc0, fc1", ""))
    assert states(found) == [(True, False), (True, False)]
    assert (found.eligible, found.chosen) == (2, 0)
    assert found.summary() == "measured: 2 layers, 2 eligible, 0 chosen (0 in INT8)"


def test_numbers_alone_name_no_layer() -> None:
    lines = [
        "(Sparsity) Found 2 layer(s) eligible to use sparse tactics",
        "(Sparsity) Chose 1 layer(s) using sparse tactics",
    ]
    found = of(chain(2), lines)
    assert states(found) == [(None, None), (None, None)]
    assert found.pairs[0].eligible.count == 2
    assert "neither log nor engine names it" in found.layers[0].reason


def test_a_number_of_zero_speaks_of_every_layer() -> None:
    lines = [
        "(Sparsity) Found 39 layer(s) eligible to use sparse tactics",
        "(Sparsity) Chose 0 layer(s) using sparse tactics",
    ]
    assert states(of(chain(2), lines)) == [(None, False), (None, False)]


def test_pairs_of_parts_that_were_compiled_on_their_own() -> None:
    lines = [*ten("fc0, fc1", "fc0"), *ten("fc2", "fc2"), *ten("", "")]
    found = of(chain(4), lines)
    assert states(found) == [(True, True), (True, False), (True, True), (False, False)]
    assert found.layers[3].reason == "TensorRT does not see the pattern"
    assert len(found.pairs) == 3


def test_where_the_builder_tried_again_the_last_word_counts() -> None:
    lines = [*ten("fc0, fc1", "fc0, fc1"), *ten("fc0, fc1", "fc1")]
    assert states(of(chain(2), lines)) == [(True, False), (True, True)]


def test_a_log_that_breaks_off() -> None:
    (eligible, _) = ten("fc0, fc1", "fc0")
    assert states(of(chain(2), [eligible])) == [(True, None), (True, None)]


def test_a_chosen_line_alone() -> None:
    (_, chosen) = ten("fc0, fc1", "fc0")
    assert states(of(chain(2), [chosen])) == [(True, True), (None, None)]


def test_fused_names() -> None:
    lines = ten(
        "fc0 + bias0 + PWN(relu0), weight1 + q1 + fc1 || fc2, {ForeignNode[fc3...relu3]}",
        "weight1 + q1 + fc1 || fc2",
    )
    found = of(chain(5), lines)
    assert states(found)[:3] == [(True, False), (True, True), (True, True)]
    # Something in the foreign node is eligible; what, the line does not say.
    assert states(found)[3:] == [(None, None), (None, None)]


def test_a_tactic_with_a_sparse_name_is_proof() -> None:
    found = of(
        chain(3),
        [],
        [
            kernel("fc0 + bias0", "sm80_xmma_gemm_sparse_i8i8_i8i32", HasSparseWeights=1),
            kernel("fc1 + bias1", "ampere_int8_i16832gemm_int8_128x128", HasSparseWeights=1),
            kernel("fc2 + bias2", "sm90_xmma_gemm_spmma_i8", AllowSparse=1),
        ],
    )
    assert states(found) == [(True, True), (True, False), (True, True)]
    assert [layer.reads for layer in found.layers] == ["int8"] * 3
    assert [layer.writes for layer in found.layers] == ["float16"] * 3
    assert found.layers[1].tactic.startswith("ampere_int8")
    assert found.chosen == 2
    assert found.chosen_int8 == 0, "they write FP16"


def test_eligible_is_not_chosen() -> None:
    found = of(chain(1), [], [kernel("fc0", "0x0000000000000000", HasSparseWeights=1)])
    assert states(found) == [(True, None)]
    assert found.chosen == 0
    assert found.summary() == (
        "measured: 1 layers, 1 eligible, 0 chosen (0 in INT8), 1 not known"
    )
    assert found.layers[0].reason == "log and engine do not tell its kernel"


def test_an_engine_may_know_that_there_is_no_pattern() -> None:
    found = of(chain(1), [], [kernel("fc0", "dense_gemm", HasSparseWeights=0)])
    assert states(found) == [(False, False)]


def test_the_log_decides_where_the_tactic_is_hidden() -> None:
    layers: list[dict[str, Any]] = [
        {
            "Name": "__myl_FcAddReluQuant_myl0_3",
            "LayerType": "gemm",
            "Inputs": [{"Name": "x", "Datatype": "Int8"}],
            "Constants": [{"Name": "w", "Datatype": "Int8"}],
            "Outputs": [{"Name": "y", "Datatype": "Int8"}],
            "TacticName": "__myelin_CASK_STUB",
            "Metadata": "[ONNX Layer: fc0]\x1f[ONNX Layer: bias0]\x1f[ONNX Layer: relu0]",
        },
        {
            "Name": "{ForeignNode[fc1...relu1]}",
            "LayerType": "Myelin",
            "Inputs": [],
            "Outputs": [],
            "TacticName": "",
        },
    ]
    lines = ten("fc0, fc1", "fc0")
    found = of(chain(2), lines, layers)
    assert states(found) == [(True, True), (True, False)]
    assert found.layers[0].reads == found.layers[0].writes == "int8"
    assert found.chosen_int8 == 1
    assert states(of(chain(2), [], layers)) == [(None, None), (None, None)]


def test_a_visible_tactic_beats_an_older_word_of_the_log() -> None:
    lines = ten("fc0", "")
    found = of(chain(1), lines, [kernel("fc0", "sm80_xmma_sparse_gemm")])
    assert states(found) == [(True, True)]


def test_reasons_stay_those_of_the_prediction() -> None:
    model = chain(2, dense={1}, outputs="float")
    found = of(model, ten("fc0", ""))
    assert "float-output" in found.layers[0].reason
    assert found.layers[1].reason.startswith("not 2:4: ")
    wide = chain(1, width=256)
    assert of(wide, ten("fc0", "")).layers[0].reason == SLOWER
    odd = of(model, ten("fc0, fc1", "")).layers[1]
    assert odd.reason.startswith("predicted otherwise: not 2:4")


def test_a_prediction_chooses_nothing() -> None:
    found = predicted(chain(2, dense={0}))
    assert found.basis == PREDICTED
    assert states(found) == [(False, False), (True, None)]
    assert found.summary() == (
        "predicted: 2 layers, 1 eligible, 1 of them may become sparse; chosen: not known"
    )
    rows = found.rows()
    assert all(len(row) == len(HEADINGS) for row in rows)
    assert [row[4] for row in rows] == ["no", "may be"]


def test_sparse_tensor_cores_begin_with_ampere() -> None:
    found = predicted(chain(2, dense={0}))
    assert without_sparse_cores(found, (8, 0)) == found
    old = without_sparse_cores(found, (7, 5))
    assert states(old) == [(False, False), (True, False)]
    assert old.layers[1].reason == "the GPU has compute capability 7.5, below 8.0"
    assert old.layers[0].reason.startswith("not 2:4")


def test_names() -> None:
    model = chain(3)
    tiny.node(model, "fc2").name = None
    (unnamed,) = (n for n in model.graph if n.name is None)
    names = NodeNames(model)
    assert names.within("fc0") == {"fc0"}
    assert names.within("node_of_" + str(unnamed.outputs[0].name)) == {unnamed.outputs[0].name}
    assert names.within("{ForeignNode[fc0...relu0]}") >= {"fc0", "bias0", "relu0"}
    assert "fc1" not in names.within("{ForeignNode[fc0...relu0]}")
    assert names.within("{ForeignNode[tmp_weight_2...relu0]}") == {"relu0"}
    assert names.within("{ForeignNode[tmp...unknown]} + fc1") == {"fc1"}
    assert names.within("Reformatting CopyNode for Input Tensor 0 to fc0") == frozenset()
    assert names.within("PWN(bias0, relu0)") == {"bias0", "relu0"}
    assert names.within("fc") == frozenset()


def test_the_log_tells_what_a_foreign_node_holds() -> None:
    line = (
        "ForeignNode {ForeignNode[tmp_weight_2...relu1]} metadata: "
        "[ONNX Layer: fc0]\x1f[ONNX Layer: relu1 | outer (Function)]"
    )
    assert foreign_nodes([line, "other"]) == {
        "{ForeignNode[tmp_weight_2...relu1]}": ("fc0", "relu1")
    }
    names = NodeNames(chain(2), [line])
    assert names.within("{ForeignNode[tmp_weight_2...relu1]}") == {"fc0", "relu1"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[ONNX Layer: a]", ("a",)),
        ("[ONNX Layer: a][ONNX Layer: b]", ("a", "b")),
        ("[ONNX Layer: a[0]]\x1e[ONNX Layer: b]\x1f[ONNX Layer: c]", ("a[0]", "b", "c")),
        ("", ()),
    ],
)
def test_metadata(text: str, names: tuple[str, ...]) -> None:
    assert metadata_names(text) == names


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Row major linear FP32", "float32"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
        ("Half", "float16"),
        ("Float", "float32"),
        ("BFloat16", "bfloat16"),
        ("BF16", "bfloat16"),
        ("UInt8", "uint8"),
        ("FP8", "float8"),
        ("Int64", "int64"),
    ],
)
def test_types(words: str, kind: str) -> None:
    assert enginelayers.type_of(words) == kind


@pytest.mark.parametrize(
    ("kind", "is_product"),
    [
        ("CaskConvolution", True),
        ("CaskGemmConvolution", True),
        ("CaskGemmMatrixMultiply", True),
        ("gemm", True),
        ("correlation", True),
        ("MatrixMultiply", True),
        ("kgen", False),
        ("Reformat", False),
        ("Converter", False),
        ("Myelin", False),
    ],
)
def test_kinds_of_layers(kind: str, is_product: bool) -> None:
    (layer,) = enginelayers.from_inspector(
        json.dumps({"Layers": [kernel("fc0", "", LayerType=kind)]}), NodeNames(chain(1))
    )
    assert layer.is_product == is_product


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"Layers": 3}'])
def test_what_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(ModelError, match="not the layers of an engine"):
        enginelayers.from_inspector(text, NodeNames(chain(1)))


def test_an_engine_without_details() -> None:
    with pytest.raises(ModelError, match="names of its layers alone") as caught:
        enginelayers.from_inspector('{"Layers": ["fc0", "relu0"]}', NodeNames(chain(1)))
    assert "--profilingVerbosity=detailed" in caught.value.remedy


def test_a_build_elsewhere(tmp_path: Path) -> None:
    model, log, layers = (tmp_path / name for name in ("m.onnx", "m.log", "m.json"))
    onnx.save(chain_proto(2), model)
    log.write_text("\n".join(ten("fc0, fc1", "fc1", PREFIX)))
    assert states(evidence_of(model, log)) == [(True, False), (True, True)]
    layers.write_text(json.dumps({"Layers": [kernel("fc1", "sparse_gemm")]}))
    assert evidence_of(model, log, layers).layers[1].tactic == "sparse_gemm"
    log.write_text(
        "nothing of interest \udcff".encode(errors="surrogateescape").decode("latin1")
    )
    assert states(evidence_of(model, log, layers)) == [(None, None), (True, True)]
    with pytest.raises(DataError, match=r"m\.log: nothing in it is about sparsity") as caught:
        evidence_of(model, log)
    assert "--sparsity=enable --verbose" in caught.value.remedy
    layers.write_text("{")
    with pytest.raises(DataError, match=r"m\.json: not the layers"):
        evidence_of(model, log, layers)
    with pytest.raises(FileError, match=r"no\.log: cannot be read"):
        evidence_of(model, tmp_path / "no.log")


def chain_proto(length: int) -> onnx.ModelProto:
    import onnx_ir as ir

    return ir.to_proto(chain(length))
