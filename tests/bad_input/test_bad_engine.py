"""Engines that cannot be built as asked: told before anything is computed."""

from __future__ import annotations

from tests.bad_input.case import (
    ONE_SHOT,
    UNREADABLE,
    USAGE,
    Case,
    folder_of,
    refused,
)

TENSORRT = f"{ONE_SHOT} --target tensorrt"
ENGINE = f"{TENSORRT} --opt-shapes x:1x8 --engine "

CASES = [
    Case(
        "engine for another target",
        f"{ONE_SHOT} --engine m.engine",
        USAGE,
        ("--engine", "onnxruntime", "--target tensorrt"),
    ),
    Case(
        "shapes without an engine",
        f"{TENSORRT} --opt-shapes x:1x8",
        USAGE,
        ("--opt-shapes", "--engine"),
    ),
    Case(
        "no shapes",
        f"{TENSORRT} --engine m.engine",
        USAGE,
        ("input 'x'", "[batch, 8]", "--opt-shapes x:1x8"),
    ),
    Case(
        "shapes that are none",
        f"{TENSORRT} --engine m.engine --opt-shapes 1x8",
        USAGE,
        ("--opt-shapes", "'1x8'", "NAME:1x3x224x224"),
    ),
    Case(
        "shapes of another input",
        f"{TENSORRT} --engine m.engine --opt-shapes y:1x8",
        USAGE,
        ("no input 'y'", "'x' [batch, 8]"),
    ),
    Case(
        "shapes of another model",
        f"{TENSORRT} --engine m.engine --opt-shapes x:1x9",
        USAGE,
        ("1x9", "'x' [batch, 8]"),
    ),
    Case(
        "a range upside down",
        f"{ENGINE} m.engine --max-shapes x:1x8 --min-shapes x:2x8",
        USAGE,
        ("--min-shapes", "2x8", "1x8"),
    ),
    Case("missing folder", f"{ENGINE} no/m.engine", UNREADABLE, ("no", "does not exist")),
    Case("engine is a folder", f"{ENGINE} m", UNREADABLE, ("m", "folder"), folder_of("m")),
    Case(
        "engine is the model", f"{ENGINE} model.onnx", UNREADABLE, ("model.onnx", "--engine")
    ),
    Case(
        "engine is the data", f"{ENGINE} data.npz --data data.npz", UNREADABLE, ("data.npz",)
    ),
    Case(
        "engine is the output",
        f"{ENGINE} o.engine -o o.engine",
        UNREADABLE,
        ("o.engine", "--engine"),
    ),
    Case(
        "the engine's report is the report",
        f"{ENGINE} model.gpusq",
        UNREADABLE,
        ("model.gpusq.json", "--engine"),
    ),
    Case(
        "a script is in the way",
        f"{ENGINE} m.engine",
        UNREADABLE,
        ("m.engine.trtexec.sh", "folder"),
        folder_of("m.engine.trtexec.sh"),
    ),
]


test_one_line_and_nothing_written = refused(CASES)
