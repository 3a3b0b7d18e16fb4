"""Class balance and curriculum of an epoch: counts, repetition by (seed, epoch), equal shares of several processes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mien.config import DataConfig, OptimConfig, Recipe
from mien.data.sampling import epoch_rows, taught_classes, training_size
from mien.errors import DataError, UsageError

LABELS = np.array([0] * 70 + [1] * 20 + [2] * 7 + [-1] * 3)
ROWS = np.flatnonzero(LABELS >= 0)


def visit(balance: str = "none", epoch: int = 1, seed: int = 0, **options) -> np.ndarray:
    return epoch_rows(ROWS, LABELS, balance=balance, seed=seed, epoch=epoch, **options)


def counts(rows: np.ndarray) -> list[int]:
    return np.bincount(LABELS[rows], minlength=3).tolist()


@pytest.mark.parametrize("balance", ["none", "weights", "weights_max"])
def test_each_face_once(balance: str) -> None:
    assert sorted(visit(balance)) == list(ROWS)


def test_sampler_draws_every_class_equally_often() -> None:
    rows = visit("sampler")
    assert len(rows) == len(ROWS)
    assert sorted(counts(rows)) == [32, 32, 33]
    times = np.bincount(rows, minlength=len(LABELS))
    assert set(times[LABELS == 0]) == {0, 1}
    assert set(times[LABELS == 1]) == {1, 2}
    assert set(times[LABELS == 2]) == {4, 5}


def test_sampler_min_draws_as_many_as_the_rarest_class_has_and_others_next_time() -> None:
    first, second = visit("sampler_min"), visit("sampler_min", 2)
    assert counts(first) == counts(second) == [7, 7, 7]
    assert len(set(first)) == 21
    seen = set(np.concatenate([visit("sampler_min", epoch) for epoch in range(1, 60)]))
    assert seen == set(ROWS)


@pytest.mark.parametrize("balance", ["none", "sampler", "sampler_min"])
def test_order_depends_on_seed_and_epoch_alone(balance: str) -> None:
    assert (visit(balance) == visit(balance)).all()
    assert (visit(balance) != visit(balance, 2)).any()
    assert (visit(balance) != visit(balance, seed=1)).any()
    assert (np.diff(LABELS[visit(balance)]) != 0).sum() > 5  # classes are mixed


@pytest.mark.parametrize("balance", ["none", "sampler", "sampler_min"])
def test_processes_get_equal_shares_of_the_same_rows(balance: str) -> None:
    rows = visit(balance, processes=4)
    assert len(rows) % 4 == 0
    assert (rows == visit(balance)[: len(rows)]).all()
    assert len(visit(balance)) - len(rows) < 4
    with pytest.raises(DataError, match="faces for 200 processes"):
        visit(balance, processes=200)


def test_curriculum_chooses_the_classes() -> None:
    assert counts(visit(classes=[1, 2])) == [0, 20, 7]
    assert counts(visit("sampler_min", classes=[0, 1])) == [20, 20, 0]
    with pytest.raises(DataError, match="no training face"):
        visit(classes=[5])


def recipe(groups: list[list[str]], every: int = 1, epochs: int = 9) -> Recipe:
    data = DataConfig(store=Path("x"), scheme="polarity-3", curriculum=groups, curriculum_epochs=every)
    return replace(Recipe(), data=data, optim=OptimConfig(epochs=epochs))


def test_a_group_more_every_few_epochs() -> None:
    steps = recipe([["Positive"], ["Negative", "Neutral"]], every=2)
    assert [taught_classes(steps, epoch) for epoch in (1, 2, 3, 9)] == [[1], [1], [1, 2, 0], [1, 2, 0]]
    assert taught_classes(recipe([]), 1) is None


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([["Positiv"], ["Negative", "Neutral"]], "Did you mean 'Positive'"),
        ([["Positive"], ["Negative"]], "each of Neutral, Positive, Negative once"),
        ([["Positive"], ["Negative", "Neutral", "Positive"]], "once"),
        ([["Positive"], [], ["Negative", "Neutral"]], "empty"),
        ([["Positive"], ["Negative"], ["Neutral"]], "starts in epoch 11, after optim.epochs 9"),
    ],
)
def test_wrong_curricula_are_told(groups: list[list[str]], words: str) -> None:
    with pytest.raises(UsageError, match=f"data.curriculum: .*{words}"):
        taught_classes(recipe(groups, every=5), 1)


def test_early_stopping_must_not_come_before_the_last_group() -> None:
    steps = recipe([["Positive"], ["Negative", "Neutral"]], every=3)  # the last group starts in epoch 4
    with pytest.raises(UsageError, match=r"patience 2 can stop before its last group starts in epoch 4.* 3 or more"):
        taught_classes(replace(steps, optim=replace(steps.optim, patience=2)), 1)
    assert taught_classes(replace(steps, optim=replace(steps.optim, patience=3)), 1) == [1]


def test_small_pictures_come_first() -> None:
    recipe = Recipe(optim=OptimConfig(epochs=10, sizes=[[32, 0.5], [40, 0.25]]))
    assert [training_size(recipe, epoch) for epoch in range(1, 11)] == [32] * 5 + [40] * 3 + [112] * 2
    assert training_size(Recipe(), 1) == 112


@pytest.mark.parametrize("sizes", [[[32, 0.8], [40, 0.4]], [[8, 0.5]], [[32.5, 0.5]], [[32, 0]], [[32]]])
def test_sizes_that_cannot_be_meant(sizes: list) -> None:
    with pytest.raises(UsageError, match=r"optim\.sizes"):
        training_size(Recipe(optim=OptimConfig(sizes=sizes)), 1)
