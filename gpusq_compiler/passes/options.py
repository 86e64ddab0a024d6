"""The option table: dataclass fields ⇄ plain values of a recipe or the command line."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union

from gpusq_compiler.components import Component
from gpusq_compiler.errors import OptionError

Find: TypeAlias = Callable[[str, str], type[Component]]
Built = TypeVar("Built")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One field of a pass or component, as people see it."""

    name: str
    type: object
    default: object
    help: str

    @property
    def type_name(self) -> str:
        """The type in words: ``int``, ``none or int``, ``one of a, b``, ``score``."""
        return _words(self.type)


def options_of(cls: type) -> tuple[Option, ...]:
    """The options of a pass or component, in the order of their fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    table = []
    for field in dataclasses.fields(cls):
        kind, text = hints[field.name], ""
        if typing.get_origin(kind) is Annotated:
            kind, text = typing.get_args(kind)[:2]
        default: object = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        table.append(Option(name=field.name, type=kind, default=default, help=text))
    return tuple(table)


def build(cls: type[Built], values: Mapping[str, object], *, find: Find, where: str) -> Built:
    """Make an instance from plain values.

    Args:
        cls: A pass or component.
        values: As TOML gives them; a hyphen in a name counts as an underscore.
        find: Looks up a component by kind and name.
        where: What to call the place in an error.

    Raises:
        OptionError: An unknown option, or a value that does not fit.
    """
    table = {option.name: option for option in options_of(cls)}
    fitting = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in table:
            raise OptionError(
                f"there is no option '{key}'", where=where, remedy=near(key, table)
            )
        if name in fitting:
            raise OptionError(f"'{name}' is given twice", where=where)
        fitting[name] = _fit(value, table[name].type, find, f"{where}.{name}")
    return cls(**fitting)


def dump(instance: object) -> dict[str, object]:
    """The plain values from which `build` makes an equal instance; None is left out."""
    values = {o.name: getattr(instance, o.name) for o in options_of(type(instance))}
    return {name: dump_value(value) for name, value in values.items() if value is not None}


def near(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """A remedy that lists what was perhaps meant."""
    allowed = sorted(set(known))
    if not allowed:
        return "It has none"
    close = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(allowed)}"


def dump_value(value: object) -> object:
    """One value as TOML can hold it: a component becomes a table with ``use``."""
    if isinstance(value, Component):
        return {"use": value.name, **dump(value)}
    if isinstance(value, tuple):
        return [dump_value(item) for item in value]
    return value


def _fit(value: object, kind: Any, find: Find, where: str) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {Union, types.UnionType}:
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None or value == "none" else _fit(value, inner, find, where)
    if origin is Literal:
        if value not in arguments:
            raise _misfit(value, kind, where)
        return value
    if origin is tuple:
        return tuple(_fit(v, arguments[0], find, where) for v in _listed(value))
    if isinstance(kind, type) and issubclass(kind, Component):
        return _fit_component(value, kind, find, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise _misfit(value, kind, where)
    return value


def _listed(value: object) -> Sequence[object]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value if isinstance(value, list | tuple) else [value]


def _fit_component(value: object, kind: type[Component], find: Find, where: str) -> object:
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("use"), str):
        raise _misfit(value, kind, where)
    rest = {key: item for key, item in value.items() if key != "use"}
    return build(find(kind.kind, value["use"]), rest, find=find, where=where)


def _misfit(value: object, kind: object, where: str) -> OptionError:
    return OptionError(f"'{value}' does not fit", where=where, remedy=f"Give {_words(kind)}")


def _words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {Union, types.UnionType}:
        return "none or " + " or ".join(_words(a) for a in arguments if a is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        article, _, noun = _words(arguments[0]).partition(" ")
        return f"a list of {noun}{'es' if noun.endswith('s') else 's'}" if noun else article
    if isinstance(kind, type) and issubclass(kind, Component):
        return f"{'an' if kind.kind[0] in 'aeiou' else 'a'} {kind.kind}"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    return names.get(kind, str(kind))
