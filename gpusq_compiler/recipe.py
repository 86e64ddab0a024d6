"""Recipes: TOML ⇄ passes. The one place where a plan comes from, whoever asks for it.

A plan is made in milliseconds, before any model is read: names, options, values and order are
all checked here. Precedence: ``--set`` over ``--steps``/``--batch-size``/``--lr`` over the
recipe over the defaults of the passes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
import tomlkit.exceptions

from gpusq_compiler.calibration.images import Images
from gpusq_compiler.errors import FileError, OptionError, RecipeError
from gpusq_compiler.passes import options, registry
from gpusq_compiler.passes.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpusq_compiler.passes.base import Pass

PRESETS = Path(__file__).parent / "recipes"
KEYS = ("seed", "pass", "data")
IMAGES = "data.images"


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Passes with all their options, in order, how images are read, and the seed."""

    pipeline: Pipeline
    images: Images = Images()
    seed: int = 0

    def text(self) -> str:
        """The canonical recipe that repeats the run."""
        return recipe_text(self.pipeline.passes, self.seed, self.images)


@dataclasses.dataclass
class _Entry:
    name: str
    values: dict[str, Any]


@dataclasses.dataclass
class _Draft:
    entries: list[_Entry]
    images: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def plan(self) -> Plan:
        pipeline = Pipeline(passes=tuple(_build(entry) for entry in self.entries))
        pipeline.check_order()
        images = options.build(Images, self.images, find=registry.find_component, where=IMAGES)
        return Plan(pipeline=pipeline, images=images, seed=self.seed)


def plan_of(
    passes: str | Sequence[str] | None = None,
    recipe: str | Path | None = None,
    *,
    seed: int | None = None,
    overrides: Overrides | None = None,
) -> Plan:
    """Make a plan from pass names or from a recipe (a file or the name of a preset).

    Raises:
        OptionError: Both or none are given; an unknown pass or option; a value that does not
            fit; an order that cannot work.
        RecipeError: The content of the recipe is refused.
        FileError: The recipe cannot be read.
    """
    if (passes is None) == (recipe is None):
        raise OptionError(
            "give either passes or a recipe", remedy="For example: --passes prune,qat"
        )
    if passes is not None:
        draft = _Draft(_completed(_Entry(name, {}) for name in _names(passes)))
    else:
        assert recipe is not None
        draft = _sound_draft(recipe)
    if seed is not None:
        draft.seed = seed
    if draft.seed < 0:
        raise OptionError(f"{seed} is negative", where="seed", remedy="Count from 0")
    _override(draft, overrides or Overrides())
    return draft.plan()


def recipe_text(passes: Iterable[Pass], seed: int, images: Images | None = None) -> str:
    """The TOML from which the same passes are built again."""
    document: dict[str, object] = {"seed": seed, "pass": []}
    document["pass"] = [{"use": step.name, **options.dump(step)} for step in passes]
    if images is not None and images != Images():
        table = {name: value for name, value in options.dump(images).items() if value != []}
        document["data"] = {"images": table}
    return tomlkit.dumps(document)


def presets() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _names(passes: str | Sequence[str]) -> list[str]:
    listed = passes.split(",") if isinstance(passes, str) else list(passes)
    names = [name.strip().replace("_", "-") for name in listed if name.strip()]
    if not names:
        raise OptionError(
            "the list of passes is empty",
            where="--passes",
            remedy=f"Known: {', '.join(registry.names())}",
        )
    return names


def _sound_draft(recipe: str | Path) -> _Draft:
    """A recipe that is sound by itself: what is wrong inside is no wrong command line."""
    draft = _read(recipe)
    try:
        draft.entries = _completed(draft.entries)
        draft.plan()
    except OptionError as error:
        where = ", ".join(filter(None, [str(recipe), error.where]))
        raise RecipeError(error.what, where=where, remedy=error.remedy) from error
    return draft


def _read(recipe: str | Path) -> _Draft:
    path = Path(recipe)
    if not path.exists() and str(recipe) in presets():
        path = PRESETS / f"{recipe}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            "is not a text file", where=str(path), remedy="Give a recipe in TOML"
        ) from error
    except OSError as error:
        raise FileError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            remedy=f"Give a file or one of the presets: {', '.join(presets())}",
        ) from error
    try:
        document = tomlkit.parse(text).unwrap()
    except tomlkit.exceptions.TOMLKitError as error:
        raise RecipeError(
            f"is not TOML: {error}", where=str(path), remedy="Correct that line"
        ) from error
    return _drafted(document, str(path))


def _drafted(document: Mapping[str, Any], where: str) -> _Draft:
    for key in document:
        if key not in KEYS:
            raise RecipeError(
                f"there is no key '{key}'", where=where, remedy=options.near(key, KEYS)
            )
    seed = document.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise RecipeError(
            f"seed '{seed}' is not an integer from 0 on", where=where, remedy="Write: seed = 0"
        )
    return _Draft(
        entries=_entries(document.get("pass", []), where),
        images=_images(document.get("data", {}), where),
        seed=seed,
    )


def _images(table: object, where: str) -> dict[str, Any]:
    """The table ``[data.images]``: all that a recipe says of data."""
    keys = list(table) if isinstance(table, dict) else []
    images = table.get("images", {}) if isinstance(table, dict) else None
    if not isinstance(images, dict) or keys not in ([], ["images"]):
        wrong = ", ".join(key for key in keys if key != "images") or "its form"
        raise RecipeError(
            f"[data] holds only the table images, not {wrong}",
            where=where,
            remedy="Write, for example: [data.images] size = 224; files go to --data",
        )
    return dict(_underscored(images, where))


def _entries(tables: object, where: str) -> list[_Entry]:
    if not isinstance(tables, list) or not tables:
        raise RecipeError(
            "holds no [[pass]]", where=where, remedy='Add: [[pass]] use = "prune"'
        )
    entries = []
    for table in tables:
        if not isinstance(table, dict) or not isinstance(table.get("use"), str):
            raise RecipeError(
                "a [[pass]] does not say which one it is",
                where=where,
                remedy='Add, for example: use = "prune"',
            )
        values = _underscored({k: v for k, v in table.items() if k != "use"}, where)
        entries.append(_Entry(table["use"].replace("_", "-"), values))
    return entries


def _underscored(value: Any, where: str) -> Any:
    """A hyphen in a name counts as an underscore: from here on there is one spelling."""
    if isinstance(value, list):
        return [_underscored(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {key.replace("-", "_"): _underscored(v, where) for key, v in value.items()}
    if len(plain) < len(value):
        twice = next(key for key in value if key.replace("-", "_") in {*value} - {key})
        raise RecipeError(f"'{twice}' is given twice", where=where, remedy="Leave one out")
    return plain


def _completed(asked: Iterable[_Entry]) -> list[_Entry]:
    """Put before each pass the built-in ones that it needs, and freeze behind quantizers."""
    entries = list(asked)
    named = {entry.name for entry in entries}
    result: list[_Entry] = []
    for entry in entries:
        for helper in _helpers(registry.find(entry.name), named):
            if helper not in {done.name for done in result}:
                result.append(_Entry(helper, {}))
        result.append(entry)
    if "freeze" not in named and any(entry.name == "quantize" for entry in result):
        result.append(_Entry("freeze", {}))
    return result


def _helpers(step: type[Pass], named: set[str]) -> list[str]:
    """Names of built-in passes that give what this one needs and nobody named, in order."""
    found: list[str] = []
    for name in registry.PASSES:
        giver = registry.find(name)
        if giver.gives & step.needs and name not in named and name != step.name:
            found += [*_helpers(giver, named), name]
    return list(dict.fromkeys(found))


def _override(draft: _Draft, overrides: Overrides) -> None:
    common = {
        "steps": overrides.steps,
        "batch_size": overrides.batch_size,
        "learning_rate": overrides.learning_rate,
    }
    for entry in draft.entries:
        known = {option.name for option in options.options_of(registry.find(entry.name))}
        if "steps" in known:
            entry.values |= {k: v for k, v in common.items() if v is not None}
    for setting in overrides.settings:
        _set(draft, setting)


def _set(draft: _Draft, setting: str) -> None:
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
        _place(entry, [key.replace("-", "_") for key in keys], _value(text.strip()))


def _place(entry: _Entry, keys: list[str], value: object) -> None:
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


def _value(text: str) -> object:
    """TOML where it parses as such, else the text itself."""
    try:
        return tomlkit.value(text).unwrap()
    except tomlkit.exceptions.TOMLKitError:
        return text


def _build(entry: _Entry) -> Pass:
    return options.build(
        registry.find(entry.name),
        entry.values,
        find=registry.find_component,
        where=entry.name,
    )
