from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gpusq_compiler.errors import FileError, GpusqError, OptionError, RecipeError
from gpusq_compiler.passes.base import Fact
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.passes.qat import Qat
from gpusq_compiler.passes.quantize import Quantize
from gpusq_compiler.quant.observers import MinMax, Percentile
from gpusq_compiler.recipe import Overrides, Plan, plan_of, presets, recipe_text
from gpusq_compiler.train.losses import FeatureError, HardLabel, SoftLogits
from gpusq_compiler.train.quantizers import FixedStep, LearnedStep

if TYPE_CHECKING:
    from pathlib import Path

    from gpusq_compiler.passes.base import Pass


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan.pipeline.passes]


def step(plan: Plan, name: str) -> Any:
    return next(one for one in plan.pipeline.passes if one.name == name)


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("asked", "planned"),
    [
        ("prune", "canonicalize prune"),
        ("quantize", "canonicalize quantize freeze"),
        ("prune,qat", "canonicalize prune quantize qat freeze"),
        ("freeze", "canonicalize quantize freeze"),
        (" prune , qat ,", "canonicalize prune quantize qat freeze"),
        ("canonicalize,quantize,prune", "canonicalize quantize prune freeze"),
        ("qat", "canonicalize quantize qat freeze"),
    ],
)
def test_what_a_pass_needs_is_put_before_it(asked: str, planned: str) -> None:
    assert names(plan_of(asked)) == planned.split()
    assert names(plan_of([name.strip() for name in asked.split(",")])) == planned.split()


FROZEN = frozenset({Fact.CANONICAL, Fact.SPARSE, Fact.QDQ, Fact.FROZEN})


@pytest.mark.parametrize(
    ("asked", "holding", "planned"),
    [
        ("pack", FROZEN, "canonicalize pack"),
        ("freeze,pack", FROZEN, "canonicalize freeze pack"),
        ("distill", FROZEN - {Fact.QDQ, Fact.FROZEN}, "canonicalize distill"),
        ("qat", FROZEN - {Fact.FROZEN}, "canonicalize qat freeze"),
        ("prune", {Fact.CANONICAL}, "canonicalize prune"),
        # What quantize adds has to be frozen, whatever was frozen before.
        ("quantize", FROZEN, "canonicalize quantize freeze"),
        ("quantize,pack", FROZEN, "canonicalize quantize freeze pack"),
    ],
)
def test_what_a_model_has_behind_it_is_not_planned(
    asked: str, holding: frozenset[Fact], planned: str
) -> None:
    assert names(plan_of(asked).for_model(frozenset(holding))) == planned.split()


def test_a_needed_pass_with_an_option_was_asked_for() -> None:
    overrides = Overrides(settings=("quantize.samples=3",))
    plan = plan_of("pack", overrides=overrides).for_model(FROZEN)
    assert names(plan) == ["canonicalize", "quantize", "freeze", "pack"]


@pytest.mark.parametrize(
    ("asked", "planned"),
    [
        ("prune,qat", "canonicalize prune quantize qat freeze lower"),
        ("prune", "canonicalize prune"),
        ("prune,lower", "canonicalize prune quantize freeze lower"),
        ("freeze", "canonicalize quantize freeze lower"),
    ],
)
def test_for_tensorrt_a_plan_that_freezes_also_lowers(asked: str, planned: str) -> None:
    assert names(plan_of(asked, target="tensorrt")) == planned.split()
    assert "lower" not in names(plan_of("prune,qat", target="onnxruntime"))


def test_whoever_names_it_gets_it_for_every_target() -> None:
    assert names(plan_of("lower")) == ["canonicalize", "quantize", "freeze", "lower"]


@pytest.mark.parametrize("name", presets())
def test_presets_lower_for_tensorrt(name: str) -> None:
    plan = plan_of(
        recipe=name, target="tensorrt", overrides=Overrides(settings=("lower.rest=bf16",))
    )
    assert names(plan) == [*names(plan_of(recipe=name)), "lower"]
    assert step(plan, "lower").rest == "bf16"


def test_a_recipe_that_lowers_is_completed_by_nothing(recipe: Any) -> None:
    plan = plan_of("quantize", target="tensorrt")
    again = plan_of(recipe=recipe(plan.text()), target="tensorrt")
    assert again == plan
    assert plan_of(recipe=recipe(plan.text())) == plan


@pytest.mark.parametrize("name", presets())
def test_presets_are_plans(name: str) -> None:
    assert names(plan_of(recipe=name))


def test_the_main_preset_is_the_main_job() -> None:
    assert plan_of(recipe="sparse-int8") == plan_of("prune,qat")


def test_a_file_beats_a_preset_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one-shot").write_text('[[pass]]\nuse = "canonicalize"\n')
    assert names(plan_of(recipe="one-shot"))[-1] == "freeze"
    monkeypatch.chdir(tmp_path)
    assert names(plan_of(recipe="one-shot")) == ["canonicalize"]


PASSES: list[Pass] = [
    Prune(pattern="1:4", include=("a.*", "b,c"), exclude=('"quoted" \\d',)),
    Quantize(observer=Percentile(percentile=99.5), samples=3, batch_size=2),
    Quantize(observer=MinMax()),
    Qat(),
    Qat(
        steps=1,
        batch_size=1,
        learning_rate=1e-9,
        losses=(SoftLogits(weight=0.5, temperature=3.0), HardLabel(), FeatureError()),
        temperature=7.0,
        features=("x/y", "z"),
        evaluate_every=5,
        quantizer=FixedStep(),
    ),
]


@pytest.mark.parametrize("one", PASSES, ids=lambda one: one.name)
def test_the_canonical_text_is_exact(one: Pass, recipe: Any) -> None:
    text = recipe_text((one,), 12)
    plan = plan_of(recipe=recipe(text))
    assert step(plan, one.name) == one
    assert plan.seed == 12
    again = plan_of(recipe=recipe(plan.text()))
    assert again == plan
    assert again.text() == plan.text()


def test_hyphens_and_underscores_are_one(recipe: Any) -> None:
    plan = plan_of(
        recipe=recipe("""
        [[pass]]
        use = "qat"
        learning-rate = 0.5
        batch_size = 3
        [[pass.losses]]
        use = "soft_logits"
        """),
        overrides=Overrides(settings=("qat.batch-size=4", "qat.scale_learning-rate=0.25")),
    )
    qat = step(plan, "qat")
    assert (qat.learning_rate, qat.batch_size, qat.scale_learning_rate) == (0.5, 4, 0.25)
    assert qat.losses == (SoftLogits(),)


def test_precedence(recipe: Any) -> None:
    path = recipe("""
    seed = 5
    [[pass]]
    use = "qat"
    steps = 1
    batch-size = 1
    learning-rate = 1.0
    """)
    common = {"steps": 2, "batch_size": 2, "learning_rate": 2.0}
    plan = plan_of(
        recipe=path,
        seed=9,
        overrides=Overrides(**common, settings=("qat.steps=3",)),  # type: ignore[arg-type]
    )
    qat = step(plan, "qat")
    assert (qat.steps, qat.batch_size, qat.learning_rate) == (3, 2, 2.0)
    assert plan.seed == 9
    assert plan_of(recipe=path).seed == 5
    assert step(plan_of(recipe=path), "qat").steps == 1
    assert step(plan_of("qat"), "qat").steps is None


def test_common_options_are_for_training_passes_alone() -> None:
    plan = plan_of("prune,qat", overrides=Overrides(batch_size=7))
    assert step(plan, "qat").batch_size == 7
    assert step(plan, "quantize").batch_size == Quantize().batch_size


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"steps": 0}, "--steps"),
        ({"batch_size": 7}, "--batch-size"),
        ({"learning_rate": 0.0}, "--lr"),
        ({"steps": 3, "learning_rate": 0.1}, "--steps, --lr"),
    ],
)
def test_common_options_want_a_training_pass(given: dict[str, Any], where: str) -> None:
    for passes, recipe in (("prune,quantize", None), (None, "one-shot")):
        with pytest.raises(OptionError, match=r"no pass of the plan trains.*\bqat\b") as error:
            plan_of(passes, recipe, overrides=Overrides(**given))
        assert error.value.where == where
        assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("setting", "name", "option", "expected"),
    [
        ("prune.pattern=1:4", "prune", "pattern", "1:4"),
        ("prune.exclude=a,b", "prune", "exclude", ("a", "b")),
        ('prune.exclude=["a,b"]', "prune", "exclude", ("a,b",)),
        ("prune.exclude=", "prune", "exclude", ()),
        ("prune.exclude=a=b", "prune", "exclude", ("a=b",)),
        ("qat.steps=100", "qat", "steps", 100),
        (" qat.steps = 100", "qat", "steps", 100),
        ("qat.steps=none", "qat", "steps", None),
        ("qat.learning_rate=1e-3", "qat", "learning_rate", 1e-3),
        ("quantize.observer=minmax", "quantize", "observer", MinMax()),
        ("quantize.observer.use=minmax", "quantize", "observer", MinMax()),
        (
            'quantize.observer={use="percentile", percentile=50}',
            "quantize",
            "observer",
            Percentile(percentile=50.0),
        ),
        ("qat.losses=hard-label,soft-logits", "qat", "losses", (HardLabel(), SoftLogits())),
        ("qat.quantizer=lsq", "qat", "quantizer", LearnedStep()),
    ],
)
def test_set(setting: str, name: str, option: str, expected: object) -> None:
    plan = plan_of("prune,qat", overrides=Overrides(settings=(setting,)))
    assert getattr(step(plan, name), option) == expected


def test_set_reaches_a_component_of_the_recipe(recipe: Any) -> None:
    path = recipe('[[pass]]\nuse = "quantize"\nobserver = "percentile"')
    settings = ("quantize.observer.percentile=90",)
    plan = plan_of(recipe=path, overrides=Overrides(settings=settings))
    assert step(plan, "quantize").observer == Percentile(percentile=90.0)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("qat.steps", "'qat.steps' is not pass.option=value"),
        ("steps=3", "'steps=3' is not pass.option=value"),
        ("qat..steps=3", "is not pass.option=value"),
        ("=3", "is not pass.option=value"),
        ("prun.pattern=2:4", "the plan has no pass 'prun'. Did you mean prune?"),
        ("qat.stepz=3", "there is no option 'stepz'. Did you mean steps?"),
        ("qat.steps=many", "'many' does not fit. Give an integer"),
        ("qat.steps=1.5", "'1.5' does not fit"),
        ("qat.steps=[1]", "does not fit"),
        ("qat.steps=-1", "qat.steps: -1 is too small"),
        ("quantize.observer.bit=5", "'bit'. Did you mean bits?"),
        (
            'quantize.observer={use="percentile", percentile=0}',
            "percentile 0.0 is not in (0, 100]",
        ),
        ("quantize.observer=mean", "there is no observer 'mean'"),
        ("quantize.observer.a.b=1", "'observer.a.b' is not an option of a component"),
        ("qat.steps.x=1", "is not an option of a component"),
        ("quantize.weights=int3", "'int3' does not fit. Give one of int8-per-channel"),
        ("prune.pattern=5", "'5' is not a sparsity pattern"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(setting: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        plan_of("prune,qat", overrides=Overrides(settings=(setting,)))
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("passes", "says"),
    [
        ("", "the list of passes is empty"),
        (" , ", "the list of passes is empty"),
        ([], "the list of passes is empty"),
        ("purne", "there is no pass 'purne'. Did you mean prune?"),
        ("freeze,quantize", "Put quantize before freeze"),
    ],
)
def test_a_wrong_list_is_a_usage_error(passes: str | list[str], says: str) -> None:
    with pytest.raises(OptionError) as caught:
        plan_of(passes)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("both", [{}, {"passes": "prune", "recipe": "one-shot"}])
def test_one_source_of_passes(both: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="give either passes or a recipe"):
        plan_of(**both)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no [[pass]]"),
        ("seed = 1", "holds no [[pass]]"),
        ("pass = []", "holds no [[pass]]"),
        ("pass = 3", "holds no [[pass]]"),
        ("pass = [3]", "use = "),
        ("[[pass]]\nuse = 3", "use = "),
        ("[[pass]]\npattern = '2:4'", "use = "),
        ("[[pass]", "is not TOML"),
        ("sede = 1\n[[pass]]\nuse = 'prune'", "there is no key 'sede'. Did you mean seed?"),
        ("seed = -1\n[[pass]]\nuse = 'prune'", "seed '-1' is not an integer from 0 on"),
        ("seed = true\n[[pass]]\nuse = 'prune'", "seed 'True' is not an integer"),
        ("seed = 1.5\n[[pass]]\nuse = 'prune'", "seed '1.5' is not an integer"),
        ("[[pass]]\nuse = 'purne'", "there is no pass 'purne'. Did you mean prune?"),
        ("[[pass]]\nuse = 'prune'\nexclde = []", "no option 'exclde'. Did you mean exclude"),
        ("[[pass]]\nuse = 'prune'\npattern = 'x'", "'x' is not a sparsity pattern"),
        ("[[pass]]\nuse = 'qat'\nsteps = [1]", "'[1]' does not fit"),
        ("[[pass]]\nuse = 'qat'\nbatch-size = 1\nbatch_size = 2", "is given twice"),
        ("[[pass]]\nuse='freeze'\n[[pass]]\nuse='quantize'", "Put quantize before freeze"),
    ],
)
def test_a_wrong_recipe_is_refused_content(text: str, says: str, recipe: Any) -> None:
    path = recipe(text)
    with pytest.raises(RecipeError) as caught:
        plan_of(recipe=path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no-such.*presets: gpusq-vit, one-shot, sparse-int8"):
        plan_of(recipe=tmp_path / "no-such")
    with pytest.raises(GpusqError):
        plan_of(recipe=tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not a text file"):
        plan_of(recipe=binary)
