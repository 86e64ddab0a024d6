"""From a TOML file or a preset to a draft; what is wrong inside is refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
import tomlkit.exceptions

from gpusq_compiler.errors import FileError, RecipeError
from gpusq_compiler.passes import options
from gpusq_compiler.recipe.draft import Draft, Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

PRESETS = Path(__file__).parent / "presets"
KEYS = ("seed", "pass", "data")


def presets() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read(recipe: str | Path) -> Draft:
    """Read a recipe.

    Raises:
        RecipeError: Its content is refused.
        FileError: It cannot be read.
    """
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


def _drafted(document: Mapping[str, Any], where: str) -> Draft:
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
    return Draft(
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


def _entries(tables: object, where: str) -> list[Entry]:
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
        entries.append(Entry(table["use"].replace("_", "-"), values))
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
