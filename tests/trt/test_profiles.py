"""Shapes for free dimensions: what is read, and what does not fit."""

from __future__ import annotations

import pytest

from gpusq_compiler.errors import ModelError, OptionError
from gpusq_compiler.trt.engines.profiles import (
    Profile,
    Shapes,
    profiles_of,
    text_of,
    usual_profiles,
)
from tests import tiny

IMAGE = "g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }"
TEXT = """g (int64[batch, sequence] ids, float[2, batch, 8] state, float[4] fixed)
    => (float[batch, sequence] y, float[2, batch, 8] z, float[4] w)
    { y = Cast<to = 1>(ids) z = Relu(state) w = Relu(fixed) }"""


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("x:1x3x224x224", {"x": (1, 3, 224, 224)}),
        ("ids:1x128,mask:1x128", {"ids": (1, 128), "mask": (1, 128)}),
        (" a : 4 , b:5", {"a": (4,), "b": (5,)}),
        ("scope/x:0:8x2", {"scope/x:0": (8, 2)}),
        ("a,b:3", {"a,b": (3,)}),
        ("", {}),
        (None, {}),
    ],
)
def test_reading(text: str | None, shapes: dict[str, tuple[int, ...]]) -> None:
    assert Shapes.parse(optimum=text).optimum == shapes


@pytest.mark.parametrize("shapes", [{"x": (1, 3)}, {"a:0": (2,), "b": (7, 1, 1)}])
def test_writing_is_what_is_read(shapes: dict[str, tuple[int, ...]]) -> None:
    assert Shapes.parse(text_of(shapes)).minimum == shapes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "'x' is no list of shapes"),
        ("x:", "'x:' is no list of shapes"),
        ("x:1x", "'x:1x' is no list"),
        ("x:axb", "'x:axb' is no list"),
        ("x:1x-1", "'x:1x-1' is no list"),
        ("x:1,y", "'y' is no list"),
        ("x:1,x:2", "input 'x' stands twice"),
    ],
)
def test_what_is_no_list_of_shapes(text: str, said: str) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        Shapes.parse(maximum=text)
    assert caught.value.where == "--max-shapes"


def test_a_range() -> None:
    shapes = Shapes.parse("x:1x3x32x32", "x:8x3x64x64", "x:16x3x128x128")
    assert profiles_of(tiny.model_of(IMAGE), shapes) == (
        Profile(
            name="x",
            smallest=(1, 3, 32, 32),
            typical=(8, 3, 64, 64),
            largest=(16, 3, 128, 128),
        ),
    )


def test_what_is_left_out_is_as_the_typical_shape() -> None:
    given = Shapes.parse(None, "ids:4x128,state:2x4x8", "ids:8x128,state:2x8x8")
    ids, state = profiles_of(tiny.model_of(TEXT), given)
    assert (ids.smallest, ids.typical, ids.largest) == ((4, 128), (4, 128), (8, 128))
    assert state.smallest == (2, 4, 8)


def test_a_model_without_free_dimensions_needs_none() -> None:
    model = tiny.model_of("g (float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }")
    assert profiles_of(model, Shapes()) == ()
    assert profiles_of(model, Shapes.parse(optimum="x:2x4")) == ()


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ((None, None, None), "input 'ids'", "free in 'ids' [batch, sequence], 'state' [2, ba"),
        ((None, "ids:1x8", None), "input 'state'", "free in 'state' [2, batch, 8]. Give"),
        (("ids:1x8,state:2x1x8", None, None), "input 'ids'", "dimensions are free"),
        ((None, "idz:1x8", None), "--opt-shapes", "no input 'idz'. Its inputs: 'ids' [ba"),
        (("ids:1", None, None), "--min-shapes", "1 does not fit input 'ids' [batch, seq"),
        ((None, None, "state:3x1x8"), "--max-shapes", "3x1x8 does not fit input 'state'"),
        ((None, "ids:0x8", None), "--opt-shapes", "0x8 does not fit input 'ids'"),
        ((None, "fixed:5", None), "--opt-shapes", "5 does not fit input 'fixed' [4]"),
        (
            ("ids:2x8", "ids:1x8,state:2x1x8", None),
            "--min-shapes",
            "2x8 does not lie below 1x8",
        ),
        (
            (None, "ids:4x8,state:2x1x8", "ids:8x4"),
            "--max-shapes",
            "4x8 does not lie below 8x4",
        ),
    ],
)
def test_what_does_not_fit(
    given: tuple[str | None, str | None, str | None], where: str, said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        profiles_of(tiny.model_of(TEXT), Shapes.parse(*given))
    assert caught.value.where == where
    assert said in str(caught.value)


def test_the_example_of_the_remedy_can_be_typed() -> None:
    model = tiny.model_of(TEXT)
    with pytest.raises(OptionError) as caught:
        profiles_of(model, Shapes())
    example = caught.value.remedy.split("--opt-shapes ")[1].split(" ")[0]
    assert len(profiles_of(model, Shapes.parse(optimum=example))) == 2


def test_an_input_without_a_rank() -> None:
    model = tiny.model_of(IMAGE)
    model.graph.inputs[0].shape = None
    with pytest.raises(ModelError, match="input 'x': the number of its dimensions"):
        profiles_of(model, Shapes())


def test_guessed_sizes() -> None:
    (image,) = usual_profiles(tiny.model_of(IMAGE), Shapes())
    assert image.smallest == image.typical == image.largest == (1, 3, 224, 224)
    ids, state = usual_profiles(tiny.model_of(TEXT), Shapes.parse(optimum="ids:3x7"))
    assert (ids.typical, state.typical) == ((3, 7), (2, 16, 8))
    with pytest.raises(OptionError, match="dimensions are free"):
        usual_profiles(tiny.model_of(TEXT), Shapes.parse("ids:3x7"))
