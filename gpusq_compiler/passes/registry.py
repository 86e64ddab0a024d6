"""Names of passes and components → their classes, imported on first use.

Ours stand in the tables below; third parties announce theirs as entry points of the groups
``gpusq_compiler.passes`` and ``gpusq_compiler.<kind>s``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import TYPE_CHECKING

from gpusq_compiler.components import Component
from gpusq_compiler.errors import OptionError
from gpusq_compiler.passes.base import Pass
from gpusq_compiler.passes.options import near

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN = "gpusq-compiler"
PASSES: Mapping[str, str] = {
    "canonicalize": "gpusq_compiler.passes.canonicalize:Canonicalize",
    "prune": "gpusq_compiler.passes.prune:Prune",
    "distill": "gpusq_compiler.passes.distill:Distill",
    "quantize": "gpusq_compiler.passes.quantize:Quantize",
    "qat": "gpusq_compiler.passes.qat:Qat",
    "freeze": "gpusq_compiler.passes.freeze:Freeze",
    "lower": "gpusq_compiler.passes.lower:Lower",
    "pack": "gpusq_compiler.passes.pack:Pack",
}
COMPONENTS: Mapping[str, Mapping[str, str]] = {
    "score": {
        "auto": "gpusq_compiler.sparsity.scores:Auto",
        "magnitude": "gpusq_compiler.sparsity.scores:Magnitude",
        "wanda": "gpusq_compiler.sparsity.scores:Wanda",
        "sparsegpt": "gpusq_compiler.sparsity.scores:SparseGpt",
        "taylor": "gpusq_compiler.sparsity.scores:Taylor",
    },
    "observer": {
        "minmax": "gpusq_compiler.quant.observers:MinMax",
        "percentile": "gpusq_compiler.quant.observers:Percentile",
        "mse": "gpusq_compiler.quant.observers:MeanSquare",
        "entropy": "gpusq_compiler.quant.observers:Entropy",
    },
    "quantizer": {
        "lsq": "gpusq_compiler.train.quantizers:LearnedStep",
        "fixed": "gpusq_compiler.train.quantizers:FixedStep",
    },
    "loss": {
        "hard-label": "gpusq_compiler.train.losses:HardLabel",
        "soft-logits": "gpusq_compiler.train.losses:SoftLogits",
        "output-error": "gpusq_compiler.train.losses:OutputError",
        "feature-error": "gpusq_compiler.train.losses:FeatureError",
        "feature-cosine": "gpusq_compiler.train.losses:FeatureCosine",
        "attention-transfer": "gpusq_compiler.train.losses:AttentionTransfer",
    },
}


def names() -> dict[str, str]:
    """Every known pass with the package that owns it: ours first, in pipeline order."""
    return {name: owner for name, (owner, _) in _table("passes", PASSES).items()}


def component_names(kind: str) -> dict[str, str]:
    """Every known component of a kind with the package that owns it."""
    return {name: owner for name, (owner, _) in _components(kind).items()}


def find(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        OptionError: There is none of that name, or its package cannot be imported.
    """
    found = _load(name, _table("passes", PASSES), "pass")
    if not issubclass(found, Pass):
        raise OptionError("is not a Pass", where=f"pass '{name}'", remedy="Ask its author")
    return found


def find_component(kind: str, name: str) -> type[Component]:
    """The class of a component.

    Raises:
        OptionError: There is none of that kind and name, or its package cannot be imported.
    """
    found = _load(name, _components(kind), kind)
    if not issubclass(found, Component) or found.kind != kind:
        raise OptionError(
            f"is not a {kind}", where=f"{kind} '{name}'", remedy="Ask its author"
        )
    return found


def _components(kind: str) -> dict[str, tuple[str, str]]:
    group = f"{kind}es" if kind.endswith("s") else f"{kind}s"
    return _table(group, COMPONENTS.get(kind, {}))


def _table(group: str, own: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name → (owner, "module:Class"), from our table and all installed entry points."""
    table = {name: (OWN, place) for name, place in own.items()}
    for point in _points(f"gpusq_compiler.{group}"):
        owner = point.dist.name if point.dist is not None else "unknown package"
        if point.name in table and table[point.name] != (owner, point.value):
            raise OptionError(
                f"'{point.name}' is offered by both {table[point.name][0]} and {owner}",
                where=f"entry points gpusq_compiler.{group}",
                remedy="Uninstall one of them",
            )
        table[point.name] = (owner, point.value)
    return table


@functools.cache
def _points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """What installed packages announce; reading that takes milliseconds, so once is enough."""
    found = importlib.metadata.entry_points(group=group)
    return tuple(sorted(found, key=lambda point: (point.name, point.value)))


def _load(name: str, table: Mapping[str, tuple[str, str]], kind: str) -> type:
    wanted = name.replace("_", "-")
    if wanted not in table:
        raise OptionError(f"there is no {kind} '{name}'", remedy=near(wanted, table))
    owner, place = table[wanted]
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"cannot be imported from {owner}: {error}",
            where=f"{kind} '{name}'",
            remedy=f"Reinstall {owner}",
        ) from error
    if not isinstance(found, type):
        raise OptionError(f"{place} is not a class", where=f"{kind} '{name}'")
    return found
