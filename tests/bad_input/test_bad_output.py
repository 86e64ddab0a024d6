"""Outputs that cannot be written or would destroy what is read."""

from __future__ import annotations

from tests.bad_input.case import (
    ONE_SHOT,
    UNREADABLE,
    Case,
    content,
    data,
    folder_of,
    model,
    refused,
)

EXTERNAL = model(external=True)
EARLY_TEACHER = "model.onnx --passes prune,quantize --data data.npz --teacher "
SHARDS = "model.onnx --passes prune,quantize --data shards"
LOADER = "model.onnx --passes prune,quantize --data loader.py:feeds"
TWINS = f"{ONE_SHOT} --target tensorrt --twins"
RECIPE = "model.onnx --recipe r.toml"

CASES = [
    Case("missing folder", f"{ONE_SHOT} -o no/m.onnx", UNREADABLE, ("no", "does not exist")),
    Case("twins in a file", f"{TWINS} data.npz", UNREADABLE, ("data.npz", "not a folder")),
    Case("twins nowhere", f"{TWINS} no/twins", UNREADABLE, ("no", "does not exist")),
    Case(
        "a twin is the report",
        f"{TWINS} . --report model.gpusq.dense-int8.onnx",
        UNREADABLE,
        ("dense-int8", "one file"),
    ),
    Case(
        "a twin is the teacher",
        f"{TWINS} . --teacher model.gpusq.sparse-fp16.onnx",
        UNREADABLE,
        ("sparse-fp16", "overwritten"),
        model("model.gpusq.sparse-fp16.onnx"),
    ),
    Case(
        "missing report folder", f"{ONE_SHOT} --report no/r.json", UNREADABLE, ("no", "exist")
    ),
    Case("output is the input", f"{ONE_SHOT} -o model.onnx", UNREADABLE, ("overwrite", "-o")),
    Case(
        "output is the input by another path",
        f"{ONE_SHOT} -o sub/../model.onnx",
        UNREADABLE,
        ("overwrite",),
        folder_of("sub"),
    ),
    Case(
        "output is the weights' file",
        f"{ONE_SHOT} -o model.data",
        UNREADABLE,
        ("model.data", "overwrite"),
        EXTERNAL,
    ),
    Case(
        "output is the data",
        f"{ONE_SHOT} --data data.npz -o data.npz",
        UNREADABLE,
        ("data.npz", "overwritten"),
    ),
    Case(
        "output is a shard",
        f"{SHARDS} -o shards/a.npz",
        UNREADABLE,
        ("a.npz", "overwritten"),
        data("shards/a.npz"),
    ),
    Case(
        "output is the loader",
        f"{LOADER} -o loader.py",
        UNREADABLE,
        ("loader.py", "overwritten"),
        content("loader.py", "def feeds(): ..."),
    ),
    Case(
        "output is the recipe",
        f"{RECIPE} -o r.toml",
        UNREADABLE,
        ("r.toml", "overwritten"),
        content("r.toml", '[[pass]]\nuse = "prune"'),
    ),
    Case(
        "output is the teacher",
        f"{EARLY_TEACHER} t.onnx -o t.onnx",
        UNREADABLE,
        ("t.onnx", "overwritten"),
        model("t.onnx"),
    ),
    Case(
        "report is the input",
        f"{ONE_SHOT} --report model.onnx",
        UNREADABLE,
        ("model.onnx", "overwrite"),
    ),
    Case(
        "report is the data",
        f"{ONE_SHOT} --data data.npz --report data.npz",
        UNREADABLE,
        ("data.npz", "overwritten"),
    ),
    Case("output is a folder", f"{ONE_SHOT} -o m", UNREADABLE, ("folder",), folder_of("m")),
    Case(
        "report is the output",
        f"{ONE_SHOT} -o o.onnx --report o.onnx",
        UNREADABLE,
        ("o.onnx", "--report"),
    ),
    Case(
        "page is the input",
        "page.html --passes prune --report page.html",
        UNREADABLE,
        ("page.html", "overwrite"),
        model("page.html"),
    ),
    Case(
        "the page's data are the data",
        f"{ONE_SHOT} --eval-data d.json --report d.html",
        UNREADABLE,
        ("d.json", "overwritten"),
        content("d.json", "{}"),
    ),
    Case(
        "the page's data are the output",
        f"{ONE_SHOT} -o o.json --report o.html",
        UNREADABLE,
        ("o.json", "--report"),
    ),
    Case(
        "page in no folder",
        f"{ONE_SHOT} --report no/such.html",
        UNREADABLE,
        ("no", "does not exist"),
    ),
    Case(
        "working folder is a file",
        f"{ONE_SHOT} --workdir data.npz",
        UNREADABLE,
        ("data.npz", "--workdir"),
    ),
    Case("output is empty text", f"{ONE_SHOT} -o ''", UNREADABLE, ("folder",)),
]


test_one_line_and_nothing_written = refused(CASES)
