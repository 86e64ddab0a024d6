"""What the command line says about options, on top of names or a recipe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import tomlkit
import tomlkit.exceptions

from gpusq_compiler.errors import OptionError
from gpusq_compiler.passes import options, registry

if TYPE_CHECKING:
    from gpusq_compiler.recipe.draft import Draft, Entry

IMAGES = "data.images"
COMMON = {"steps": "--steps", "batch_size": "--batch-size", "learning_rate": "--lr"}
"""Options of every training pass, and what the command line calls them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line says about options, the strongest last.

    Attributes:
        steps: For every training pass.
        batch_size: For every training pass.
        learning_rate: For every training pass.
        settings: ``pass.option=value`` and ``data.images.option=value`` texts.
    """

    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    settings: tuple[str, ...] = ()


def apply(draft: Draft, overrides: Overrides) -> None:
    """Write the overrides into a draft, the strongest last.

    Raises:
        OptionError: A setting is malformed or names no pass of the plan, or there is an option
            for training passes and none in the plan.
    """
    common = {name: getattr(overrides, name) for name in COMMON}
    given = {name: value for name, value in common.items() if value is not None}
    training = [entry for entry in draft.entries if _trains(entry.name)]
    if given and not training:
        raise OptionError(
            "no pass of the plan trains",
            where=", ".join(COMMON[name] for name in given),
            remedy=f"Add one that does ({', '.join(filter(_trains, registry.PASSES))}), "
            "or leave the option out",
        )
    for entry in training:
        entry.values |= given
    for setting in overrides.settings:
        _set(draft, setting)


def _trains(name: str) -> bool:
    return "steps" in {option.name for option in options.options_of(registry.find(name))}


def _set(draft: Draft, setting: str) -> None:
    path, equals, text = setting.partition("=")
    name, *keys = path.strip().split(".")
    if not equals or not keys or not all(keys):
        raise OptionError(
            f"'{setting}' is not pass.option=value",
            where="--set",
            remedy="For example: --set qat.steps=100",
        )
    if path.strip().startswith(f"{IMAGES}.") and len(keys) == 2:
        draft.images[keys[1].replace("-", "_")] = _value(text.strip())
        return
    matching = [entry for entry in draft.entries if entry.name == name.replace("_", "-")]
    if not matching:
        planned = [entry.name for entry in draft.entries]
        raise OptionError(
            f"the plan has no pass '{name}'", where="--set", remedy=options.near(name, planned)
        )
    for entry in matching:
        path_in = [key.replace("-", "_") for key in keys]
        _place(entry, path_in, _value(text.strip(), _kind(entry.name, path_in)))


def _place(entry: Entry, keys: list[str], value: object) -> None:
    """Set an option, or an option of the component that is an option."""
    table = entry.values
    if len(keys) > 1:
        defaults = {o.name: o.default for o in options.options_of(registry.find(entry.name))}
        current = table.get(keys[0], options.dump_value(defaults.get(keys[0])))
        if isinstance(current, str):
            current = {"use": current}
        if not isinstance(current, dict) or len(keys) > 2:
            raise OptionError(
                f"'{'.'.join(keys)}' is not an option of a component",
                where=f"--set {entry.name}",
            )
        table[keys[0]] = {**({} if keys[1] == "use" else current), keys[1]: value}
    else:
        table[keys[0]] = value


def _kind(pass_name: str, keys: list[str]) -> object:
    """The type of an option of a pass; None of an option of a component."""
    table = options.options_of(registry.find(pass_name))
    return next((one.type for one in table if [one.name] == keys), None)


def _value(text: str, kind: object = None) -> object:
    """TOML where it parses as such, else the text itself; a number that is to be text is."""
    try:
        value = tomlkit.value(text).unwrap()
    except tomlkit.exceptions.TOMLKitError:
        return text
    return text if kind is str and isinstance(value, int | float) else value
