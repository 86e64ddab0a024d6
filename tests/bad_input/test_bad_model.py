"""Models and teachers that are no models, or not whole, or do not fit."""

from __future__ import annotations

from tests.bad_input.case import (
    ONE_SHOT,
    REFUSED,
    UNREADABLE,
    Case,
    content,
    cut,
    folder_of,
    gone,
    huge_header,
    link,
    model,
    operator,
    refused,
    together,
)

EXTERNAL = model(external=True)
EARLY_TEACHER = "model.onnx --passes prune,quantize --data data.npz --teacher "

LOWERED = f"{ONE_SHOT} --target tensorrt"

MODELS = [
    Case(
        "an operator that TensorRT does not have",
        LOWERED,
        REFUSED,
        ("Bernoulli 'relu'", "TensorRT 11 has no Bernoulli", "plugin"),
        operator("Bernoulli"),
    ),
    Case(
        "the same, asked for the plan alone",
        f"{LOWERED} --dry-run",
        REFUSED,
        ("TensorRT 11 has no Bernoulli",),
        operator("Bernoulli"),
    ),
    Case(
        "an operator that an older TensorRT does not have",
        f"{LOWERED} --set lower.tensorrt=8.6",
        REFUSED,
        ("TensorRT 8.6 has no Mish", "10.0"),
        operator("Mish"),
    ),
    Case("missing", "no.onnx --passes prune", UNREADABLE, ("no.onnx", "No such file")),
    Case("folder", "m --passes prune", UNREADABLE, ("m:", "folder"), folder_of("m")),
    Case("dangling link", "l.onnx --passes prune", UNREADABLE, ("l.onnx",), link("l.onnx")),
    Case("empty", "e.onnx --passes prune", REFUSED, ("empty",), content("e.onnx", b"")),
    Case(
        "text",
        "t.onnx --passes prune",
        REFUSED,
        ("t.onnx", "not an ONNX model"),
        content("t.onnx", "this is no model\n"),
    ),
    Case("truncated", ONE_SHOT, REFUSED, ("truncated",), cut("model.onnx", 0.6)),
    Case("an archive", "data.npz --passes prune", REFUSED, ("data.npz", "not an ONNX model")),
    Case("bad lengths", "bad.onnx --passes prune", REFUSED, ("bad.onnx",), huge_header),
    Case(
        "without its weights",
        ONE_SHOT,
        REFUSED,
        ("model.data", "missing", "first"),
        together(EXTERNAL, gone("model.data")),
    ),
    Case(
        "with half of its weights",
        ONE_SHOT,
        REFUSED,
        ("model.data", "truncated"),
        together(EXTERNAL, cut("model.data", 0.5)),
    ),
    Case(
        "weights that are a folder",
        ONE_SHOT,
        REFUSED,
        ("model.data",),
        together(EXTERNAL, gone("model.data"), folder_of("model.data")),
    ),
]

TEACHERS = [
    Case("teacher missing", f"{EARLY_TEACHER} no.onnx", UNREADABLE, ("no.onnx",)),
    Case(
        "teacher no model",
        f"{EARLY_TEACHER} t.onnx",
        REFUSED,
        ("t.onnx",),
        content("t.onnx", "text"),
    ),
    Case(
        "teacher with other inputs",
        f"{EARLY_TEACHER} t.onnx",
        REFUSED,
        ("t.onnx", "inputs", "12"),
        model("t.onnx", inputs=12),
    ),
    Case(
        "teacher with another input name",
        f"{EARLY_TEACHER} t.onnx",
        REFUSED,
        ("t.onnx", "inputs", "image"),
        model("t.onnx", feed="image"),
    ),
    Case(
        "teacher with other outputs",
        f"{EARLY_TEACHER} t.onnx",
        REFUSED,
        ("t.onnx", "outputs", "5"),
        model("t.onnx", outputs=5),
    ),
]

CASES = [*MODELS, *TEACHERS]


test_one_line_and_nothing_written = refused(CASES)
