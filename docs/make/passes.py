"""The made parts of the pages of passes: facts, options and errors of each, and their list."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from docs.make import table
from docs.make.messages import raised
from gpusq_compiler.passes import options, registry

if TYPE_CHECKING:
    from gpusq_compiler.components import Component
    from gpusq_compiler.passes.base import Pass

HELPERS = {
    "canonicalize": ("ir.own",),
    "prune": ("passes.evidence", "passes.selection", "passes.sharing", "sparsity"),
    "distill": ("passes.training", "passes.stages", "passes.trained", "train"),
    "quantize": ("passes.selection", "quant", "calibration.collect"),
    "qat": ("passes.training", "passes.stages", "passes.trained", "train"),
    "freeze": (),
    "lower": ("passes.selection", "trt.half", "trt.legality"),
    "pack": ("ir.packed",),
}
"""Modules and packages that a pass works with and whose errors are its own."""


def parts() -> dict[str, str]:
    """Every made part by its name."""
    made = {"passes": _list()}
    for name in registry.PASSES:
        step = registry.find(name)
        made[f"{name}-facts"] = _facts(step)
        made[f"{name}-options"] = option_table(step)
        made[f"{name}-errors"] = _errors(name)
    return made


def summary(thing: type) -> str:
    """The first paragraph of what a class says of itself."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def option_table(thing: type[Pass | Component]) -> str:
    """Name, type, default and meaning of every option."""
    rows = [
        (f"`{one.name}`", one.type_name, _default(one.default), one.help)
        for one in options.options_of(thing)
    ]
    return table(("option", "type", "default", "meaning"), rows) if rows else "None.\n"


def _list() -> str:
    rows = []
    for name in registry.PASSES:
        step = registry.find(name)
        loses = "yes" if step.lossy else "no"
        rows.append((f"[{name}]({name}.md)", summary(step), _named(step.gives), loses))
    return table(("pass", "what it does", "gives", "lossy"), rows)


def _facts(step: type[Pass]) -> str:
    rows = [
        ("needs", _named(step.needs)),
        ("refuses", _named(step.refuses)),
        ("gives", _named(step.gives)),
        ("breaks", _named(step.breaks)),
    ]
    facts = [f"{word} {facts}" for word, facts in rows if facts]
    twice = "A second run changes nothing" if step.idempotent else "A second run works again"
    outputs = "change" if step.lossy else "stay, up to rounding, which is checked"
    return (
        f"- Facts: {'; '.join(facts)}\n- {twice}\n- Outputs {outputs}\n"
        f"- In Python: `{step.__module__}.{step.__qualname__}`\n"
    )


def _named(facts: frozenset[object]) -> str:
    return ", ".join(sorted(f"`{getattr(fact, 'value', fact)}`" for fact in facts))


def _errors(name: str) -> str:
    places = (f"passes.{name}", *HELPERS[name])
    rows = [
        (f"`{one.kind}`", one.what, one.remedy)
        for one in raised()
        if any(one.module == place or one.module.startswith(f"{place}.") for place in places)
    ]
    return (
        table(("error", "what it says", "what to do"), rows) if rows else "None of its own.\n"
    )


def _default(value: object) -> str:
    plain = options.dump_value(value)
    if isinstance(plain, list):
        return ", ".join(map(_word, plain)) or "empty"
    return _word(plain)


def _word(plain: object) -> str:
    if isinstance(plain, dict):
        rest = ", ".join(f"{key} = {value}" for key, value in plain.items() if key != "use")
        return f"`{plain['use']}` ({rest})" if rest else f"`{plain['use']}`"
    return "none" if plain is None else f"`{plain}`"
