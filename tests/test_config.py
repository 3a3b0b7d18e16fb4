"""Recipes: typed, overridable, and unknown keys are refused with the nearest valid one."""

from pathlib import Path

import pytest
import yaml

from mien.config import Recipe, as_dict, load_recipe, recipe_keys
from mien.errors import UsageError


def test_defaults_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(as_dict(Recipe())))
    assert load_recipe(file) == Recipe()


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("guidance: {weight: 1.0}\noptim: {lr: 1e-3}\n")
    recipe = load_recipe(file, ["--guidance.weight", "4", "--model.channels", "[8, 16]", "--data.store=x"])
    assert recipe.guidance.weight == 4.0
    assert recipe.optim.lr == 1e-3
    assert recipe.model.channels == [8, 16]
    assert recipe.data.store == Path("x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {backbon: x}", ["model.backbon", "Did you mean 'model.backbone'"]),
        ("modell: {}", ["modell", "'model'"]),
        ("optim: {lr: abc}", ["optim.lr", "abc"]),
        ("optim: {schedule: foo}", ["optim.schedule", "foo"]),
        ("model: 3", ["model"]),
        ("- a", ["sections"]),
        ("a: [", ["YAML"]),
    ],
)
def test_bad_recipe_is_one_clear_line(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(file)
    message = str(caught.value)
    assert "\n" not in message
    assert "r.yaml" in message
    assert all(word in message for word in words)


@pytest.mark.parametrize(("key", "value", "told"), [
    ("optim.epochs", "one", "'one' is no whole number"),
    ("optim.epochs", "2.5", "'2.5' is no whole number"),
    ("optim.lr", "fast", "'fast' is no number"),
    ("model.stem_pool", "maybe", "'maybe' is neither true nor false"),
    ("cue.jaw", "x", "unknown value 'x'. Valid: published, true, false."),
    ("model.output_stride", "x", "'x' is no whole number"),
    ("model.channels", "[8, x]", "'[8, x]' is no list of whole numbers"),
    ("model.head_options", "5", "'5' is no mapping of names to numbers"),
    ("data.curriculum", "1", "'1' is no list of lists of texts"),
    ("data.protocol", "strikt", "unknown value 'strikt'. Did you mean 'strict'? Valid: strict, paper, complete."),
])  # fmt: skip
def test_wrong_values_are_told_in_plain_words_where_they_stand(tmp_path, key, value, told):
    """A file's mistakes begin with its name, the command line's name the option."""
    file = tmp_path / "r.yaml"
    file.write_text("optim: {lr: 0.1}")
    with pytest.raises(UsageError) as caught:
        load_recipe(file, [f"--{key}", value])
    assert str(caught.value) == f"{key}: {told}" + ("" if "unknown" in told else f" (from --{key}).")
    file.write_text(f"{key.split('.')[0]}: {{{key.split('.')[1]}: {value}}}")
    with pytest.raises(UsageError) as caught:
        load_recipe(file)
    message = str(caught.value).replace("['8', 'x']", "[8, x]").replace("[8, 'x']", "[8, x]")
    assert message == f"{file}: {key}: {told}" + ("" if "unknown" in told else ".")


def test_null_is_told_where_a_value_is_needed(tmp_path):
    (tmp_path / "r.yaml").write_text("optim: {epochs: }\nmodel: {channels: }")
    with pytest.raises(UsageError, match=r"r\.yaml: optim\.epochs: null is no whole number\.$"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(UsageError, match=r"^data\.fold_seed: 'null' is no whole number \(from --data\.fold_seed\)\.$"):
        load_recipe(None, ["--data.fold_seed", "null"])


def test_a_number_out_of_range_is_looked_for_where_it_stands(tmp_path):
    (tmp_path / "r.yaml").write_text("optim: {epochs: 0}")
    with pytest.raises(UsageError, match=r"r\.yaml: optim\.epochs is 0"):
        load_recipe(tmp_path / "r.yaml", ["--optim.lr", "1"])
    with pytest.raises(UsageError, match=r"^command line: optim\.batch is 1"):
        load_recipe(tmp_path / "r.yaml", ["--optim.epochs", "2", "--optim.batch=1"])


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(UsageError, match=r"is a folder; give a recipe file"):
        load_recipe(tmp_path)


def test_missing_file_and_unknown_override() -> None:
    with pytest.raises(UsageError, match="not found"):
        load_recipe(Path("nowhere.yaml"))
    with pytest.raises(UsageError, match=r"optim\.lr"):
        load_recipe(None, ["--optim.lrr", "3"])


def test_every_key_is_reachable() -> None:
    keys = recipe_keys()
    assert len(keys) == len(set(keys)) > 40
    assert "guidance.layers" in keys


@pytest.mark.parametrize("change", [
    ("optim.epochs", "0"), ("optim.batch", "-4"), ("optim.lr", "-1"), ("optim.ema", "1.5"), ("model.size", "0"),
    ("augment.translate", "3"), ("optim.lr", ".nan"), ("guidance.layers", "[]"),
])  # fmt: skip
def test_numbers_out_of_range_are_refused_by_key(change):
    with pytest.raises(UsageError, match=change[0]):
        load_recipe(None, [f"--{change[0]}", change[1]])


@pytest.mark.parametrize(("words", "told"), [
    ("--guidance.fraction 0.5", "fraction and random"),
    ("--guidance.fraction 0 --guidance.channels random", "above 0"),
    ("--guidance.barrier true --guidance.similarity l1", "cosine, pearson"),
    ("--guidance.target sum", "attribution activation has none"),
    ("--guidance.signed true", "keeps its sign"),
    ("--guidance.signed true --guidance.attribution grad_cam", "keeps its sign"),
    ("--guidance.detach true", "nothing to train"),
    ("--guidance.detach true --guidance.attribution grad", "nothing to train"),
    ("--guidance.normalise softmax --guidance.similarity kl", "part of similarity kl"),
    ("--guidance.start_epoch 3 --guidance.end_epoch 2", "before start_epoch 3"),
    ("--guidance.attribution gradd", "grad_input"),
    ("--guidance.cue landmark", "Did you mean 'landmarks'"),
    ("--second.weight -1", "second.weight is -1"),
    ("--second.layers []", "second.layers is empty"),
    ("--second.weight 1 --second.cue landmarks --cue.control other_class", "needs cue 'au'"),
])  # fmt: skip
def test_guidance_that_contradicts_itself_is_one_clear_line(words, told):
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        load_recipe(None, words.split())
    assert told in str(caught.value)
