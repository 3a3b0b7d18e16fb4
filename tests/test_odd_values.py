"""Recipes that cannot be: each is refused in one line with the key, and nothing but a MienError comes out of any of them."""

import random
import typing

import pytest
import yaml

from mien.config import RANGES, Recipe, as_dict, load_recipe
from mien.config import _kinds as kinds
from mien.errors import MienError, UsageError
from mien.losses.options import TERM_OPTIONS, LossConfig
from mien.values import leaf_types

IMPOSSIBLE = [
    ("optim.lr", ".inf"), ("optim.lr", "1e400"), ("optim.lr", "1e308"), ("optim.lr", "-.inf"), ("optim.head_lr", ".inf"),
    ("optim.transformer_lr", "1e300"), ("optim.momentum", "1"), ("optim.momentum", "1.0"), ("optim.ema", "1"),
    ("optim.ema", ".nan"), ("optim.label_smoothing", "1"), ("optim.clip", ".inf"), ("optim.gamma", "1e9"),
    ("optim.weight_decay", "1e30"), ("optim.warmup", "1.5"), ("optim.epochs", "1:30"), ("optim.epochs", "017"),
    ("optim.epochs", "0x10"), ("optim.epochs", "1_000"), ("optim.epochs", "1000000000"), ("optim.epochs", "1" * 400),
    ("optim.batch", "100000000"), ("optim.batch", "1"), ("optim.lr", "1:30.5"), ("optim.step_size", "0"),
    ("optim.patience", "-1"), ("optim.sizes", "[[.inf, 0.5]]"), ("optim.sizes", "[[1e9, 0.5]]"), ("model.drop", "1"),
    ("model.spatial_drop", "1.0"), ("model.size", "1000000"), ("model.output_stride", "-8"), ("model.channels", "[0, 4, 4, 4]"),
    ("model.channels", "[4, -4]"), ("model.backbone_options", "{depth: .inf}"), ("model.head_options", "{maps: 1e99}"),
    ("augment.rotation", ".inf"), ("augment.rotation", "1e308"), ("augment.rotation", "720"), ("augment.jitter", ".inf"),
    ("augment.jitter", "2"), ("augment.scale", "1"), ("augment.cutmix_alpha", ".inf"), ("transformer.limit", ".inf"),
    ("mask.sigma", ".nan"), ("mask.dilation", "2"), ("cue.groups", "{mouth: .inf}"), ("cue.groups", "{1: 2}"),
    ("cue.groups", "{[1]: 2}"), ("cue.sigma", "0"), ("cue.least", "9"), ("data.valid_fraction", "1"),
    ("data.valid_fraction", "-0.1"), ("data.folds", "100000"), ("data.fold_seed", "99999999999999999999"),
    ("run.seed", "9223372036854775808"), ("run.seed", "18446744073709551616"), ("run.devices", "100000"),
    ("run.workers", "100000"), ("run.precision", "64-true"), ("run.accelerator", "tpu"), ("run.strategy", "deepspeed"),
    ("guidance.weight", ".inf"), ("guidance.weight", "1e30"), ("guidance.start_epoch", "0"), ("guidance.end_epoch", "0"),
    ("guidance.layers", "[1000000]"), ("second.weight", ".nan"), ("loss.weight", ".inf"), ("loss.label_share", "2"),
    ("loss.barrier_factor", "1e300"), ("loss.barrier_most", ".inf"), ("loss.focal_gamma", "1e9"),
    ("loss.terms", "[{name: focal, weight: .inf}]"), ("loss.terms", "[{name: focal, gamma: 1e300}]"),
    ("loss.terms", "[{name: focal, end_epoch: 0}]"), ("loss.terms", "[{name: sparse_weights, limit: .inf}]"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), IMPOSSIBLE)
def test_values_that_cannot_be_are_refused_with_file_and_key(tmp_path, key, value):
    section, name = key.split(".")
    (tmp_path / "r.yaml").write_text(f"{section}: {{{name}: {value}}}")
    with pytest.raises(UsageError) as caught:
        load_recipe(tmp_path / "r.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert "r.yaml" in message
    assert key in message or "line 1 has a key that is no text" in message


def test_the_command_line_is_held_to_the_same():
    for key, value in [("optim.epochs", "1:30"), ("optim.lr", "1e400"), ("cue.groups", "{1: 2}"), ("run.seed", "1e30")]:
        with pytest.raises(UsageError, match=key):
            load_recipe(None, [f"--{key}", value])
    with pytest.raises(UsageError, match="a second time"):
        load_recipe(None, ["--model.head_options", "{maps: 1, maps: 2}"])


def test_every_number_of_a_recipe_has_a_range():
    numbers = {key for key, kind in kinds().items() if {int, float} & set(leaf_types(kind))}
    assert numbers | {"loss.terms"} == set(RANGES)
    for name, kind in TERM_OPTIONS.items():
        for key, type_ in typing.get_type_hints(kind).items():
            if {int, float} & set(leaf_types(type_)):
                with pytest.raises(UsageError, match=key):
                    LossConfig(terms=[{"name": name, key: 10**9}])


@pytest.mark.parametrize(("text", "told"), [
    ("optim: {lr: 0.1}\noptim: {lr: 0.2}", "line 2 has 'optim' a second time"),
    ("optim: {lr: 0.1, lr: 0.2}", "line 1 has 'lr' a second time"),
    ("a: &a [1, 1]\nb: &b [*a, *a]", "line 2 refers to '&a'"),
    ("data: " + "[" * 5000, "nested deeper than 30 levels"),
    ("data: " + "{a: " * 5000, "nested deeper than 30 levels"),
    ("? [a]\n: 1", "a key that is no text"),
    ("optim: !!python/object/apply:os.system [x]", "section with keys"),
    ("guidance: {weight: 1, start_epoch: 40}", "guidance.start_epoch is 40, but training ends after optim.epochs 30"),
    ("second: {weight: 1, start_epoch: 31}", "second.start_epoch is 31, but training ends after optim.epochs 30"),
    ("loss: {terms: [{name: focal, start_epoch: 31}]}", "focal.start_epoch is 31, but training ends after optim.epochs 30"),
    ("cue: {kind: nose}", "cue.kind"),
    ("x" * 2_000_000, "bytes; a recipe has"),
])  # fmt: skip
def test_files_that_cannot_be_meant_are_one_clear_line(tmp_path, text, told):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert told in str(caught.value)
    assert "r.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_recipe_in_another_encoding_is_told_which_one_is_wanted(tmp_path):
    for name in ("utf-16", "latin-1"):
        (tmp_path / "r.yaml").write_bytes("# é\noptim: {epochs: 3}\n".encode(name))
        with pytest.raises(UsageError, match=r"r\.yaml: .*; save it as UTF-8\."):
            load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_bytes("# é\r\noptim: {epochs: 3}\r\n".encode("utf-8-sig"))
    assert load_recipe(tmp_path / "r.yaml").optim.epochs == 3


def test_numbers_of_yaml_keep_their_meaning(tmp_path):
    (tmp_path / "r.yaml").write_text("optim: {lr: 1e-3, weight_decay: 5.0e-4, epochs: 10}\nguidance: {layers: [-1, 2]}")
    recipe = load_recipe(
        tmp_path / "r.yaml", ["--optim.clip", "1.5", "--cue.groups", "{mouth: 2}", "--data.store", "7"]
    )
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.epochs, recipe.optim.clip) == (1e-3, 5e-4, 10, 1.5)
    assert (recipe.guidance.layers, recipe.cue.groups, str(recipe.data.store)) == ([-1, 2], {"mouth": 2.0}, "7")


ODD = (
    "1:30", ".inf", "-.inf", ".nan", "1e400", "-1", "0", "1e308", "9223372036854775808", "[[1]]", "{1: 2}", "{a: b}",
    "[]", "{}", "null", "true", "'\\0'", "2001-02-30", "!!binary x", "!!set {a}", "&a [1]", "*a", "[1, [2, [3]]]",
    "{[1]: 2}", "'\u202e'", "-0.0", "017", "~", "[null]", "{a: {b: c}}", "!!timestamp 1", "=", "<<", "{<<: {a: 1}}",
)  # fmt: skip


def mutated(text: str, draws: random.Random) -> str:
    """A recipe's text with one to three odd values, lost or doubled characters or lines."""
    lines = text.splitlines()
    for _ in range(draws.randint(1, 3)):
        k = draws.randrange(len(lines))
        how = draws.randrange(5)
        if how <= 2 and ":" in lines[k]:
            lines[k] = f"{lines[k].split(':')[0]}: {draws.choice(ODD)}"
        elif how == 3:
            at = draws.randrange(len(lines[k]) + 1)
            lines[k] = lines[k][:at] + draws.choice("[]{}:&*!|>'\"%@`,#-?\t \u0007é") + lines[k][at + 1 :]
        else:
            lines.insert(draws.randrange(len(lines)), lines[k])
    return "\n".join(lines)


def refusal(path) -> str | None:
    """Why a recipe is refused; None where it is read."""
    try:
        load_recipe(path)
    except MienError as error:
        return str(error)
    return None


def fuzz(folder, count: int, seed: int) -> int:
    """How many of `count` mutated recipes are refused; anything but a MienError of one line comes through."""
    draws, refused, whole = random.Random(seed), 0, yaml.safe_dump(as_dict(Recipe()))
    for _ in range(count):
        text = mutated(whole, draws)
        (folder / "r.yaml").write_text(text, encoding="utf-8")
        told = refusal(folder / "r.yaml")
        refused += told is not None
        assert told is None or ("\n" not in told and len(told) < 1000 and "r.yaml" in told), (told, text)
    return refused


def test_mutated_recipes_are_read_or_refused_in_one_line(tmp_path):
    assert fuzz(tmp_path, 60, seed=1) > 30


@pytest.mark.slow
def test_many_mutated_recipes_are_read_or_refused_in_one_line(tmp_path):
    assert fuzz(tmp_path, 500, seed=2) > 250
