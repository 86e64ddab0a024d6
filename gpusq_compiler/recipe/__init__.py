"""Recipes: TOML ⇄ passes. The one place where a plan comes from, whoever asks for it.

A plan is made in milliseconds, before any model is read: names, options, values and order are
all checked here. Precedence: ``--set`` over ``--steps``/``--batch-size``/``--lr`` over the
recipe over the defaults of the passes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import tomlkit

from gpusq_compiler.calibration.images import Images
from gpusq_compiler.errors import OptionError, RecipeError
from gpusq_compiler.passes import options, registry
from gpusq_compiler.passes.base import Fact
from gpusq_compiler.passes.pipeline import Pipeline
from gpusq_compiler.recipe.draft import Draft, Entry, completed
from gpusq_compiler.recipe.overrides import IMAGES, Overrides, apply
from gpusq_compiler.recipe.reading import presets, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from gpusq_compiler.passes.base import Pass

__all__ = ["Overrides", "Plan", "plan_of", "presets", "recipe_text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Passes with all their options, in order, how images are read, and the seed.

    Attributes:
        pipeline: The passes.
        images: How images are read.
        seed: Of all randomness.
        needed: Names of passes that stand there for another one, and were given no option.
    """

    pipeline: Pipeline
    images: Images = Images()
    seed: int = 0
    needed: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)

    def for_model(self, holding: frozenset[Fact]) -> Plan:
        """Without needed passes whose facts hold for a model.

        `canonicalize` stays, which does more than its fact says, and so does all that stands
        behind a pass that changes the model.

        Raises:
            OptionError: The passes that are left cannot run on it.
        """
        kept: list[Pass] = []
        facts = holding - {Fact.CANONICAL}
        for step in self.pipeline.passes:
            if step.name in self.needed and step.gives <= facts:
                continue
            kept.append(step)
            facts = frozenset() if step.lossy else facts
        pipeline = dataclasses.replace(self.pipeline, passes=tuple(kept))
        pipeline.check_order(holding)
        return dataclasses.replace(self, pipeline=pipeline)

    def text(self) -> str:
        """The canonical recipe that repeats the run."""
        return recipe_text(self.pipeline.passes, self.seed, self.images)


def plan_of(
    passes: str | Sequence[str] | None = None,
    recipe: str | Path | None = None,
    *,
    seed: int | None = None,
    overrides: Overrides | None = None,
    target: str = "onnxruntime",
) -> Plan:
    """Make a plan from pass names or from a recipe (a file or the name of a preset).

    Args:
        passes: Names, ``"prune,qat"``; what they need is put before them.
        recipe: A TOML file or the name of a preset, in place of ``passes``.
        seed: Overrides the recipe's, which is 0 by default.
        overrides: Options of passes, stronger than the recipe's.
        target: ``onnxruntime`` or ``tensorrt``, for which a plan that freezes also lowers.

    Returns:
        The passes with their options, in a `Pipeline`; no model was read.

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
        draft = Draft(completed((Entry(name, {}) for name in _names(passes)), target))
    else:
        assert recipe is not None
        draft = _sound_draft(recipe, target)
    if seed is not None:
        draft.seed = seed
    if draft.seed < 0:
        raise OptionError(f"{seed} is negative", where="seed", remedy="Count from 0")
    apply(draft, overrides or Overrides())
    return _built(draft)


def recipe_text(passes: Iterable[Pass], seed: int, images: Images | None = None) -> str:
    """The TOML from which the same passes are built again."""
    document: dict[str, object] = {"seed": seed, "pass": []}
    document["pass"] = [{"use": step.name, **options.dump(step)} for step in passes]
    if images is not None and images != Images():
        table = {name: value for name, value in options.dump(images).items() if value != []}
        document["data"] = {"images": table}
    return tomlkit.dumps(document)


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


def _sound_draft(recipe: str | Path, target: str) -> Draft:
    """A recipe that is sound by itself: what is wrong inside is no wrong command line."""
    draft = read(recipe)
    try:
        draft.entries = completed(draft.entries, target)
        _built(draft)
    except OptionError as error:
        where = ", ".join(filter(None, [str(recipe), error.where]))
        raise RecipeError(error.what, where=where, remedy=error.remedy) from error
    return draft


def _built(draft: Draft) -> Plan:
    pipeline = Pipeline(passes=tuple(entry.build() for entry in draft.entries))
    pipeline.check_order()
    images = options.build(Images, draft.images, find=registry.find_component, where=IMAGES)
    needed = frozenset(one.name for one in draft.entries if one.needed and not one.values)
    return Plan(pipeline=pipeline, images=images, seed=draft.seed, needed=needed)
