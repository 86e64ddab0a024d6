"""Recipes that cannot be read, or say what does not exist."""

from __future__ import annotations

from tests.bad_input.case import (
    REFUSED,
    UNREADABLE,
    USAGE,
    Case,
    content,
    folder_of,
    refused,
)

RECIPE = "model.onnx --recipe r.toml"

CASES = [
    Case("recipe missing", RECIPE, UNREADABLE, ("r.toml", "one-shot")),
    Case("recipe a folder", RECIPE, UNREADABLE, ("r.toml",), folder_of("r.toml")),
    Case("recipe empty", RECIPE, REFUSED, ("r.toml", "[[pass]]"), content("r.toml", "")),
    Case("not TOML", RECIPE, REFUSED, ("r.toml", "TOML"), content("r.toml", "pass: prune")),
    Case(
        "binary", RECIPE, REFUSED, ("r.toml", "text"), content("r.toml", b"\xff\xfe\x00\x01")
    ),
    Case(
        "unknown key",
        RECIPE,
        REFUSED,
        ("'sed'", "seed"),
        content("r.toml", 'sed = 1\n[[pass]]\nuse = "prune"'),
    ),
    Case(
        "unknown pass in the recipe",
        RECIPE,
        REFUSED,
        ("r.toml", "'prun'", "prune"),
        content("r.toml", '[[pass]]\nuse = "prun"'),
    ),
    Case(
        "unknown option in the recipe",
        RECIPE,
        REFUSED,
        ("r.toml", "'step'", "steps"),
        content("r.toml", '[[pass]]\nuse = "qat"\nstep = 3'),
    ),
    Case(
        "wrong type in the recipe",
        RECIPE,
        REFUSED,
        ("r.toml", "qat.steps", "integer"),
        content("r.toml", '[[pass]]\nuse = "qat"\nsteps = "three"'),
    ),
    Case(
        "number out of range in the recipe",
        RECIPE,
        REFUSED,
        ("r.toml", "qat.batch_size"),
        content("r.toml", '[[pass]]\nuse = "qat"\nbatch_size = 0'),
    ),
    Case(
        "a pass that is no table",
        RECIPE,
        REFUSED,
        ("r.toml", "use"),
        content("r.toml", 'pass = ["prune"]'),
    ),
    Case(
        "seed in the recipe that is a text",
        RECIPE,
        REFUSED,
        ("r.toml", "seed"),
        content("r.toml", 'seed = "1"\n[[pass]]\nuse = "prune"'),
    ),
    Case(
        "wrong order in the recipe",
        RECIPE,
        REFUSED,
        ("r.toml", "freeze"),
        content("r.toml", '[[pass]]\nuse = "freeze"\n[[pass]]\nuse = "qat"'),
    ),
    Case(
        "--set that does not fit a sound recipe",
        f"{RECIPE} --set qat.steps=many",
        USAGE,
        ("qat.steps", "many"),
        content("r.toml", '[[pass]]\nuse = "qat"'),
    ),
]


test_one_line_and_nothing_written = refused(CASES)
