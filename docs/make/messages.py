"""Every error that the code can raise, read from the code itself."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING

import gpusq_compiler
from docs.make import ROOT, table
from gpusq_compiler import errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

GAP = "…"
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.GpusqError)
}
PACKAGE = ROOT / "gpusq_compiler"
HEAD = f"""# Messages

Every error that the program raises on purpose, by exit code. An error is one line on stderr,

```text
gpusq: error: WHERE: WHAT. WHAT TO DO
```

and {GAP} below stands for a name or a number of yours. What WHERE is, node, tensor, file or
option, depends on the case. [Troubleshooting](troubleshooting.md) has the causes of the
frequent ones. From Python they are exceptions of `gpusq_compiler.errors` with `what`,
`where`, `remedy` and `exit_code`. This page is made from the code.
"""
CODES = {
    1: "model, data or recipe refused",
    2: "usage",
    3: "a promise was broken, or training failed",
    4: "a runtime or hardware is missing",
    5: "a check did not hold",
    6: "cannot read or write",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """One place where an error is made.

    Attributes:
        kind: The class.
        what: The sentence, with gaps.
        remedy: What to do, with gaps; empty where none is given.
        module: Where, without the package's name.
    """

    kind: str
    what: str
    remedy: str
    module: str


@functools.cache
def raised() -> tuple[Message, ...]:
    """All messages in the order of the files; errors that hand another one on are left out."""
    found = (one for path in sorted(PACKAGE.rglob("*.py")) for one in messages(path))
    return tuple(dict.fromkeys(found))


def page() -> str:
    """The page of all messages."""
    text = HEAD
    for code, meaning in CODES.items():
        text += f"\n## {code}: {meaning}\n"
        for name, kind in CLASSES.items():
            if kind.exit_code == code and kind is not errors.GpusqError:
                rows = [(one.what, one.remedy) for one in raised() if one.kind == name]
                first = (inspect.getdoc(kind) or "").splitlines()[0]
                text += f"\n### {name}\n\n{first}\n\n"
                text += table(("what it says", "what to do"), sorted(set(rows)))
    return text


def messages(path: Path, *, root: Path = PACKAGE) -> Iterator[Message]:
    """The messages of one file of the package, in no particular order."""
    parts = path.relative_to(root).with_suffix("").parts
    module = ".".join(part for part in parts if part != "__init__")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = _constants(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id not in CLASSES or not node.args:
            continue
        remedies = [word.value for word in node.keywords if word.arg == "remedy"]
        what = _text(node.args[0], constants)
        if what.strip(f"{GAP} ") != "":
            remedy = _text(remedies[0], constants) if remedies else ""
            kind = node.func.id
            yield Message(kind=kind, what=what, remedy=remedy, module=module)


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The strings that a module names at its top, its own and imported ones."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            f"{gpusq_compiler.__name__}."
        ):
            path = ROOT / f"{(node.module or '').replace('.', '/')}.py"
            if path.exists() and any(alias.name.isupper() for alias in node.names):
                inner = _constants(ast.parse(path.read_text(encoding="utf-8")))
                names = [alias.name for alias in node.names if alias.name in inner]
                found.update({name: inner[name] for name in names})
    return found


def _text(node: ast.expr, constants: Mapping[str, ast.expr]) -> str:
    """What an expression says, with gaps where only a run knows."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, constants) if _named(node.value, constants) else GAP
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body, constants)}; or: {_text(node.orelse, constants)}"
    named = _named(node, constants)
    return _text(named, {}) if named is not None else GAP


def _named(node: ast.expr, constants: Mapping[str, ast.expr]) -> ast.expr | None:
    found = constants.get(node.id) if isinstance(node, ast.Name) else None
    return found if isinstance(found, ast.Constant | ast.JoinedStr) else None
