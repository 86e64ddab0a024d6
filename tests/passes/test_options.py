from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import pytest

from gpusq_compiler.components import Component
from gpusq_compiler.errors import OptionError
from gpusq_compiler.passes.options import build, dump, near, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fruit(Component):
    """A kind of component."""

    kind: ClassVar[str] = "fruit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Apple(Fruit):
    """One with options."""

    name: ClassVar[str] = "apple"
    seed_count: int = 5
    sour: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pear(Fruit):
    """One without."""

    name: ClassVar[str] = "pear"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Basket:
    """Every type of option."""

    count: Annotated[int, "how many"] = 3
    weight: float = 0.5
    open: bool = True
    label: str = "mine"
    limit: int | None = None
    price: float | None = 2.0
    size: Literal["small", "large"] = "small"
    tags: tuple[str, ...] = ()
    numbers: tuple[int, ...] = (1, 2)
    best: Annotated[Fruit, "the first to eat"] = Apple()
    rest: tuple[Fruit, ...] = (Pear(), Apple(seed_count=1))


def find(kind: str, name: str) -> type[Component]:
    assert kind == "fruit"
    known: dict[str, type[Component]] = {"apple": Apple, "pear": Pear}
    if name not in known:
        raise OptionError(f"there is no fruit '{name}'")
    return known[name]


def made(**values: object) -> Basket:
    return build(Basket, values, find=find, where="basket")


def test_the_table_lists_every_field_in_order() -> None:
    table = options_of(Basket)
    assert [option.name for option in table] == [f.name for f in dataclasses.fields(Basket)]
    words = {option.name: option.type_name for option in table}
    assert words == {
        "count": "an integer",
        "weight": "a number",
        "open": "true or false",
        "label": "a string",
        "limit": "none or an integer",
        "price": "none or a number",
        "size": "one of small, large",
        "tags": "a list of strings",
        "numbers": "a list of integers",
        "best": "a fruit",
        "rest": "a list of fruits",
    }
    assert (table[0].default, table[0].help) == (3, "how many")
    assert (table[9].default, table[9].help) == (Apple(), "the first to eat")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Basket()),
        ({"count": 4}, Basket(count=4)),
        ({"weight": 2}, Basket(weight=2.0)),
        ({"open": False}, Basket(open=False)),
        ({"limit": 4}, Basket(limit=4)),
        ({"limit": "none"}, Basket()),
        ({"price": "none"}, Basket(price=None)),
        ({"price": 1}, Basket(price=1.0)),
        ({"size": "large"}, Basket(size="large")),
        ({"tags": "a, b,"}, Basket(tags=("a", "b"))),
        ({"tags": ["a,b"]}, Basket(tags=("a,b",))),
        ({"tags": []}, Basket()),
        ({"numbers": 7}, Basket(numbers=(7,))),
        ({"best": "pear"}, Basket(best=Pear())),
        ({"best": Pear()}, Basket(best=Pear())),
        ({"best": {"use": "apple", "seed-count": 2}}, Basket(best=Apple(seed_count=2))),
        ({"rest": "apple,pear"}, Basket(rest=(Apple(), Pear()))),
        ({"rest": {"use": "apple", "sour": True}}, Basket(rest=(Apple(sour=True),))),
        ({"rest": ["pear", {"use": "pear"}]}, Basket(rest=(Pear(), Pear()))),
    ],
)
def test_values_that_fit(values: dict[str, object], expected: Basket) -> None:
    basket = made(**values)
    assert basket == expected
    assert type(basket.weight) is float
    assert build(Basket, dump(basket), find=find, where="") == dataclasses.replace(
        basket, price=basket.price if basket.price is not None else Basket().price
    )


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"count": 1.5}, "basket.count"),
        ({"count": True}, "basket.count"),
        ({"count": "three"}, "basket.count"),
        ({"count": None}, "basket.count"),
        ({"count": [1]}, "basket.count"),
        ({"weight": "heavy"}, "basket.weight"),
        ({"weight": True}, "basket.weight"),
        ({"open": 1}, "basket.open"),
        ({"label": 1}, "basket.label"),
        ({"limit": "some"}, "basket.limit"),
        ({"limit": [1]}, "basket.limit"),
        ({"limit": {"a": 1}}, "basket.limit"),
        ({"size": "medium"}, "basket.size"),
        ({"size": ["small"]}, "basket.size"),
        ({"tags": [1]}, "basket.tags"),
        ({"numbers": ["x"]}, "basket.numbers"),
        ({"best": 3}, "basket.best"),
        ({"best": {"seed_count": 3}}, "basket.best"),
        ({"best": {"use": 3}}, "basket.best"),
        ({"best": {"use": "apple", "seed_count": "x"}}, "basket.best.seed_count"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, object], where: str) -> None:
    with pytest.raises(OptionError, match="does not fit") as caught:
        made(**values)
    assert caught.value.where == where
    assert caught.value.remedy.startswith("Give ")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"cuont": 1}, "basket: there is no option 'cuont'. Did you mean count?"),
        ({"best": {"use": "apple", "seeds": 1}}, "there is no option 'seeds'"),
        ({"best": {"use": "pear", "x": 1}}, "there is no option 'x'. It has none"),
        ({"best": "plum"}, "there is no fruit 'plum'"),
        ({"best": {"use": "apple", "seed-count": 1, "seed_count": 2}}, "given twice"),
    ],
)
def test_names_that_are_not_known(values: dict[str, Any], line: str) -> None:
    with pytest.raises(OptionError) as caught:
        made(**values)
    assert line in str(caught.value)


def test_near_lists_what_was_meant() -> None:
    assert near("prun", ["prune", "quantize"]) == "Did you mean prune?"
    assert near("zzz", {"b": 1, "a": 2}) == "Known: a, b"
    assert near("x", []) == "It has none"
