"""Options that do not exist, or values that do not fit."""

from __future__ import annotations

from tests.bad_input.case import (
    ONE_SHOT,
    QAT,
    REFUSED,
    UNREADABLE,
    USAGE,
    Case,
    content,
    data,
    refused,
)

RECIPE = "model.onnx --recipe one-shot"
LOWERED = f"{ONE_SHOT} --target tensorrt"
SETTING = "model.onnx --passes prune,qat --set "

CASES = [
    Case("no passes", "model.onnx --passes ''", USAGE, ("--passes", "empty")),
    Case("neither passes nor recipe", "model.onnx", USAGE, ("passes", "recipe")),
    Case(
        "passes and recipe",
        "model.onnx --passes prune --recipe one-shot",
        USAGE,
        ("either passes or a recipe",),
    ),
    Case("unknown pass", "model.onnx --passes prune,qad", USAGE, ("'qad'", "qat")),
    Case(
        "qat before quantize", "model.onnx --passes qat,quantize", USAGE, ("quantize", "qat")
    ),
    Case("freeze before qat", "model.onnx --passes freeze,qat", USAGE, ("freeze", "qat")),
    Case("--set without a value", f"{SETTING} qat.steps", USAGE, ("--set", "qat.steps")),
    Case("--set without an option", f"{SETTING} qat=3", USAGE, ("--set", "qat=3")),
    Case("--set of an unknown pass", f"{SETTING} qad.steps=3", USAGE, ("'qad'", "qat")),
    Case("--set of an unknown option", f"{SETTING} qat.step=3", USAGE, ("'step'", "steps")),
    Case("--set with a bad value", f"{SETTING} qat.steps=many", USAGE, ("qat.steps", "many")),
    *(
        Case(
            f"a layer that is none in {option}",
            f"model.onnx --passes prune,quantize --data data.py:none --set {option}=matmul_3",
            USAGE,
            (option, "'matmul_3' matches no layer", "matmul_1"),
            content("data.py", "def none():\n    raise RuntimeError('data were read')"),
        )
        for option in ("prune.include", "prune.exclude", "quantize.include")
    ),
    Case("--set too deep", f"{SETTING} prune.score.a.b=1", USAGE, ("score.a.b",)),
    Case(
        "--set of an unknown component", f"{SETTING} prune.score=hessean", USAGE, ("hessean",)
    ),
    Case("negative steps", f"{QAT} --steps -1", USAGE, ("qat.steps", "-1")),
    Case("no steps", f"{QAT} --steps 0", USAGE, ("qat.steps", "0", "leave the pass out")),
    Case("no steps in a setting", f"{SETTING} qat.steps=0", USAGE, ("qat.steps", "pass out")),
    Case("steps that are no number", f"{QAT} --steps ten", USAGE, ("--steps", "ten")),
    Case("batches of nothing", f"{QAT} --batch-size 0", USAGE, ("batch_size", "0")),
    Case("steps without training", f"{ONE_SHOT} --steps 3", USAGE, ("--steps", "qat")),
    Case(
        "batch without training",
        f"{ONE_SHOT} --batch-size 3",
        USAGE,
        ("--batch", "qat"),
    ),
    Case("rate without training", f"{RECIPE} --lr 1", USAGE, ("--lr", "qat")),
    Case("learning rate NaN", f"{QAT} --lr nan", USAGE, ("learning_rate", "nan")),
    Case("negative seed", f"{QAT} --seed -1", USAGE, ("--seed", "-1")),
    Case("no time", f"{QAT} --budget 0", USAGE, ("--budget", "0")),
    Case("time and steps", f"{QAT} --budget 1 --steps 5", USAGE, ("--budget", "steps")),
    Case("no threads", f"{QAT} --threads 0", USAGE, ("threads", "0")),
    Case("unknown target", f"{QAT} --target tpu", USAGE, ("--target", "tpu", "onnxruntime")),
    Case(
        "a type that is none", f"{LOWERED} --set lower.rest=fp8", USAGE, ("lower.rest", "fp8")
    ),
    Case(
        "a TensorRT that is none",
        f"{LOWERED} --set lower.tensorrt=9.3",
        USAGE,
        ("lower.tensorrt", "8.6, 10 or 11"),
    ),
    Case(
        "lower without its target",
        f"{ONE_SHOT} --set lower.rest=bf16",
        USAGE,
        ("no pass 'lower'",),
    ),
    Case(
        "a node that is none",
        f"{LOWERED} --data data.npz --set lower.float32=reluu",
        USAGE,
        ("lower.float32", "reluu", "relu"),
        late=True,
    ),
    Case(
        "twins without their target",
        f"{ONE_SHOT} --twins twins",
        USAGE,
        ("--twins", "'lower'", "--target tensorrt"),
    ),
    Case(
        "twins of a plan that quantizes nothing",
        "model.onnx --passes prune --target tensorrt --twins twins",
        USAGE,
        ("--twins", "'quantize'"),
    ),
    Case("quiet and verbose", f"{ONE_SHOT} -q -v", USAGE, ("-q and -v", "one of them")),
    Case("unknown device", f"{QAT} --device tpu", USAGE, ("--device", "tpu", "cuda")),
    Case("unknown option", f"{QAT} --stepps 3", USAGE, ("--stepps", "--steps")),
    Case("no model at all", "--passes prune", USAGE, ("MODEL",)),
    Case("two models", "model.onnx model.onnx --passes prune", USAGE, ("model.onnx",)),
    Case("nothing at all", "", USAGE, ("MODEL", "--help")),
    Case(
        "unknown metric",
        f"{ONE_SHOT} --data data.npz --metric acuracy",
        USAGE,
        ("'acuracy'", "accuracy"),
    ),
    Case(
        "accuracy without labels",
        f"{ONE_SHOT} --data data.npz --metric accuracy",
        REFUSED,
        ("labels", "accuracy"),
        data(labels=None),
    ),
    Case(
        "accuracy without data",
        f"{ONE_SHOT} --metric accuracy",
        REFUSED,
        ("labels", "accuracy"),
    ),
    Case(
        "metric that fails",
        f"{ONE_SHOT} --data data.npz --metric metric.py:score",
        REFUSED,
        ("metric.py:score", "KeyError"),
        content("metric.py", "def score(outputs, feeds):\n    return outputs['z']"),
        late=True,
    ),
    Case(
        "metric that is missing",
        f"{ONE_SHOT} --data data.npz --metric metric.py:score",
        UNREADABLE,
        ("metric.py",),
    ),
]


test_one_line_and_nothing_written = refused(CASES)
