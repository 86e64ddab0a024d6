"""Data files that are not whole, or do not fit the model."""

from __future__ import annotations

import numpy as np

from tests.bad_input.case import (
    ONE_SHOT,
    QAT,
    REFUSED,
    UNREADABLE,
    Case,
    content,
    cut,
    data,
    edited,
    flipped,
    folder_of,
    objects,
    refused,
    together,
)

SHARDS = "model.onnx --passes prune,quantize --data shards"

CASES = [
    Case("data missing", f"{QAT} --data no.npz", UNREADABLE, ("no.npz", "no such file")),
    Case(
        "data empty", f"{QAT} --data e.npz", REFUSED, ("e.npz", "sound"), content("e.npz", "")
    ),
    Case(
        "data truncated",
        f"{QAT} --data data.npz",
        REFUSED,
        ("data.npz",),
        cut("data.npz", 0.5),
    ),
    Case(
        "data damaged", f"{QAT} --data data.npz", REFUSED, ("data.npz",), flipped("data.npz")
    ),
    Case(
        "data are text", f"{QAT} --data t", REFUSED, ("sound .npz",), content("t", "1,2,3\n")
    ),
    Case(
        "data are one array",
        f"{QAT} --data x.npy",
        REFUSED,
        ("sound .npz", "np.savez('samples.npz'"),
        content("x.npy", "numbers"),
    ),
    Case(
        "data are a module",
        f"{QAT} --data m.py",
        REFUSED,
        ("Name the function", "m.py:NAME"),
        content("m.py", "def feeds(): ..."),
    ),
    Case("pickles", f"{QAT} --data data.npz", REFUSED, ("'x'", "unpickled"), objects),
    Case(
        "wrong name", f"{QAT} --data data.npz", REFUSED, ("'x'",), data(x=None, image=[[1.0]])
    ),
    Case("extra array", f"{QAT} --data data.npz", REFUSED, ("'lable'",), data(lable=[1])),
    Case(
        "wrong width",
        f"{QAT} --data data.npz",
        REFUSED,
        ("[64, 7]", "[samples, 8]"),
        data(x=lambda x: x[:, :7]),
    ),
    Case(
        "wrong rank",
        f"{QAT} --data data.npz",
        REFUSED,
        ("[64, 8, 1]",),
        data(x=lambda x: x[..., None]),
    ),
    Case(
        "one number", f"{QAT} --data data.npz", REFUSED, ("shape []",), data(x=np.float32(1))
    ),
    Case(
        "double precision",
        f"{QAT} --data data.npz",
        REFUSED,
        ("float64", "astype(np.float32)"),
        data(x=lambda x: x.astype(np.float64)),
    ),
    Case(
        "integers for floats",
        f"{QAT} --data data.npz",
        REFUSED,
        ("int64", "float32"),
        data(x=lambda x: x.astype(np.int64)),
    ),
    Case(
        "NaN",
        f"{QAT} --data data.npz",
        REFUSED,
        ("sample 5", "NaN", "'x'"),
        data(x=edited((5, 2), np.nan)),
    ),
    Case(
        "infinity",
        f"{QAT} --data data.npz",
        REFUSED,
        ("sample 9", "infinity"),
        data(x=edited((9, 0), np.inf)),
    ),
    Case(
        "no samples",
        f"{QAT} --data data.npz",
        REFUSED,
        ("no samples",),
        data(x=np.zeros((0, 8), np.float32), labels=np.zeros(0, np.int64)),
    ),
    Case(
        "too few samples to train",
        f"{QAT} --data data.npz",
        REFUSED,
        ("too few", "qat", "at least 10"),
        data(x=lambda x: x[:9], labels=lambda y: y[:9]),
        late=True,
    ),
    Case(
        "fewer labels than samples",
        f"{QAT} --data data.npz",
        REFUSED,
        ("x 64", "labels 60"),
        data(labels=lambda y: y[:60]),
    ),
    Case(
        "class out of range",
        f"{QAT} --data data.npz",
        REFUSED,
        ("sample 3", "class 4", "0 to 3"),
        data(labels=edited((3,), 4)),
    ),
    Case(
        "negative class",
        f"{QAT} --data data.npz",
        REFUSED,
        ("sample 8", "negative"),
        data(labels=edited((8,), -1)),
    ),
    Case(
        "labels that are floats",
        f"{QAT} --data data.npz",
        REFUSED,
        ("labels", "float32", "integers"),
        data(labels=lambda y: y.astype(np.float32)),
    ),
    Case(
        "labels one-hot",
        f"{QAT} --data data.npz",
        REFUSED,
        ("argmax",),
        data(labels=lambda y: np.eye(4, dtype=np.float32)[y]),
    ),
    Case("folder without shards", SHARDS, REFUSED, ("shards", ".npz"), folder_of("shards")),
    Case(
        "shards that differ",
        SHARDS,
        REFUSED,
        ("b.npz", "'labels'", "a.npz"),
        together(data("shards/a.npz"), data("shards/b.npz", labels=None)),
    ),
    Case(
        "one empty shard",
        SHARDS,
        REFUSED,
        ("b.npz",),
        together(data("shards/a.npz"), content("shards/b.npz", b"")),
    ),
    Case("eval data missing", f"{ONE_SHOT} --eval-data no.npz", UNREADABLE, ("no.npz",)),
    Case(
        "eval data with NaN",
        f"{ONE_SHOT} --data data.npz --eval-data eval.npz",
        REFUSED,
        ("eval.npz", "NaN"),
        data("eval.npz", x=edited((0, 0), np.nan)),
    ),
]


test_one_line_and_nothing_written = refused(CASES)
