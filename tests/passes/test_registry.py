from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from gpusq_compiler.errors import OptionError
from gpusq_compiler.passes import registry
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.quant.observers import MinMax

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def announce(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """A list of entry points that stand for what installed packages announce."""
    points: list[EntryPoint] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry._points.cache_clear()
    yield points
    registry._points.cache_clear()


def point(name: str, value: str, group: str = "passes") -> EntryPoint:
    return EntryPoint(name=name, value=value, group=f"gpusq_compiler.{group}")


def test_our_passes_are_found_by_name() -> None:
    ours = ["canonicalize", "prune", "distill", "quantize", "qat", "freeze"]
    assert list(registry.names())[: len(ours)] == ours
    assert registry.find("prune") is Prune
    for name in registry.PASSES:
        assert registry.find(name).name == name


@pytest.mark.parametrize("kind", list(registry.COMPONENTS))
def test_our_components_are_found_by_name(kind: str) -> None:
    for name, owner in registry.component_names(kind).items():
        found = registry.find_component(kind, name)
        assert (found.kind, found.name, owner) == (kind, name, registry.OWN)


def test_near_names_are_offered() -> None:
    with pytest.raises(OptionError, match=r"there is no pass 'purne'. Did you mean prune?"):
        registry.find("purne")
    with pytest.raises(
        OptionError, match=r"there is no observer 'min-max'. Did you mean minm"
    ):
        registry.find_component("observer", "min-max")
    with pytest.raises(OptionError, match=r"there is no loss 'soft'.*soft-logits"):
        registry.find_component("loss", "soft")


def test_underscores_count_as_hyphens() -> None:
    assert registry.find_component("loss", "soft_logits").name == "soft-logits"


def test_what_others_announce_is_found(announce: list[EntryPoint]) -> None:
    announce.append(point("their-prune", "gpusq_compiler.passes.prune:Prune"))
    announce.append(point("their-range", "gpusq_compiler.quant.observers:MinMax", "observers"))
    announce.append(point("odd", "gpusq_compiler.train.losses:SoftLogits", "losses"))
    assert registry.find("their-prune") is Prune
    assert registry.find_component("observer", "their-range") is MinMax
    assert registry.find_component("loss", "odd").name == "soft-logits"
    assert list(registry.names())[-1] == "their-prune"


def test_one_name_with_two_owners_is_an_error(announce: list[EntryPoint]) -> None:
    announce.append(point("prune", "theirs:Prune"))
    with pytest.raises(OptionError) as caught:
        registry.find("quantize")
    line = str(caught.value)
    assert "'prune' is offered by both gpusq-compiler and unknown package" in line
    assert "Uninstall one of them" in line


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("no_such_package_at_all:Thing", "cannot be imported from unknown package"),
        ("gpusq_compiler.passes.prune:NoSuch", "cannot be imported from unknown package"),
        ("gpusq_compiler.passes.prune:ineligible", "is not a class"),
        ("gpusq_compiler.passes.base:Context", "is not a Pass"),
    ],
)
def test_a_broken_announcement_is_one_line(
    value: str, says: str, announce: list[EntryPoint]
) -> None:
    announce.append(point("broken", value))
    with pytest.raises(OptionError, match=says) as caught:
        registry.find("broken")
    assert caught.value.where == "pass 'broken'"


def test_a_component_of_another_kind_is_refused(announce: list[EntryPoint]) -> None:
    announce.append(point("wrong", "gpusq_compiler.quant.observers:MinMax", "scores"))
    with pytest.raises(OptionError, match="score 'wrong': is not a score"):
        registry.find_component("score", "wrong")
