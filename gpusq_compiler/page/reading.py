"""Reading a report's JSON: old ones lack parts, foreign ones have wrong types."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gpusq_compiler.errors import FileError, ReportError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Part:
    """An object of the JSON. What is absent or null reads as empty; a wrong type is an error.

    Attributes:
        values: By key.
        where: How errors call it.
    """

    values: Mapping[str, object]
    where: str

    @classmethod
    def of(cls, value: object, where: str) -> Part:
        """Take a value that must be an object.

        Raises:
            ReportError: It is none.
        """
        if not isinstance(value, Mapping):
            raise _wrong(value, where, "an object")
        return cls(value, where)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise _wrong(value, self._at(key), "text")
        return value

    def number(self, key: str) -> float | None:
        """A number; None where there is none, or one that is not finite."""
        return _number(self.values.get(key), self._at(key))

    def flag(self, key: str) -> bool:
        """True or false; false where there is nothing."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise _wrong(value, self._at(key), "true or false")
        return bool(value)

    def part(self, key: str) -> Part:
        """An object; an empty one where there is none."""
        value = self.values.get(key)
        return Part({}, self._at(key)) if value is None else Part.of(value, self._at(key))

    def parts(self, key: str) -> list[Part]:
        """A list of objects."""
        return [Part.of(value, self._at(key, i)) for i, value in enumerate(self._items(key))]

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        found = []
        for index, value in enumerate(self._items(key)):
            if not isinstance(value, str):
                raise _wrong(value, self._at(key, index), "text")
            found.append(value)
        return found

    def numbers(self, key: str) -> list[float | None]:
        """A list of numbers, some of which may be null."""
        where = self._at(key)
        return [_number(value, where) for value in self._items(key)]

    def members(self) -> Iterator[tuple[str, Part]]:
        """The objects in this one, by key."""
        for key in self.values:
            yield key, self.part(key)

    def _items(self, key: str) -> list[object]:
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise _wrong(value, self._at(key), "a list")
        return value or []

    def _at(self, key: str, index: int | None = None) -> str:
        name = f"{self.where}.{key}" if self.where else key
        return name if index is None else f"{name}[{index}]"


def load(path: Path) -> object:
    """What is in a JSON file.

    Raises:
        FileError: It cannot be read.
        ReportError: It is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"is no JSON: {first_line(error)}",
            where=str(path),
            remedy="Give the JSON that gpusq-compile wrote",
        ) from error


def _number(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(value, where, "a number")
    return value if math.isfinite(value) else None


def _wrong(value: object, where: str, wanted: str) -> ReportError:
    return ReportError(
        f"is {type(value).__name__}, not {wanted}",
        where=where or "report",
        remedy="Give the JSON that gpusq-compile wrote",
    )
