"""MOMU: invariants of the pools, balance, resuming, and a slow twin with Python sets."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mien.audet.momu import Momu, classes_of
from mien.errors import DataError

RATES = (0.02, 0.05, 0.1, 0.15, 0.21, 0.3, 0.35)


def faces(count: int = 2000, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    units = np.where(random.random((count, len(RATES))) < RATES, 3.0, 0.0).astype(np.float32)
    return classes_of(units, 2)


def test_classes():
    units = np.array([[2, 0], [1.9, np.nan], [5, 5], [np.nan, np.nan]], np.float32)
    assert classes_of(units, 2).tolist() == [
        [True, False, False],
        [False, False, True],
        [True, True, False],
        [False, False, True],
    ]


@pytest.mark.parametrize("draw", [1, 8, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_invariants_over_epochs(draw, seed):
    classes = faces(1500, seed)
    momu = Momu(classes, 400, draw, seed)
    for epoch in (1, 2, 3):
        momu.set_epoch(epoch)
        assert len(momu) == len(momu.order) == len(list(momu)) == 400
        assert momu.order.min() >= 0
        assert momu.order.max() < len(classes)
        assert momu.waiting.dtype == bool  # one mark a face: it is in all of its pools or in none
        counts = classes[momu.order].sum(0)
        alone = [k for k in range(classes.shape[1]) if counts[k] <= counts.min() + draw]
        assert len(alone) >= classes.shape[1] - 3  # all but the most co-occurring units lie within a draw of the least


def test_a_batch_of_draws_is_distinct_and_nothing_repeats_before_a_pool_is_filled_again():
    momu = Momu(faces(), 64, 16, 0)
    order = momu.order
    assert len(np.unique(order)) == 64  # four draws of 16, no class runs out
    assert (~momu.waiting).sum() == 64
    assert set(np.flatnonzero(~momu.waiting)) == set(order.tolist())


def test_balance():
    classes = faces(8000)
    momu = Momu(classes, 4096, 32, 0)
    before, after = classes.mean(0), classes[momu.order].mean(0)
    assert before.max() / before.min() > 15
    assert after.max() / after.min() < 2.5


def test_repeats_are_few_in_a_short_epoch_and_many_in_a_long_one():
    classes = faces(3000)
    shares = []
    for size in (192, 9600):
        order = Momu(classes, size, 32, 0).order
        shares.append(1 - len(np.unique(order)) / size)
    assert shares[0] < 0.05
    assert shares[1] > 0.5


def slow_epoch(classes: np.ndarray, pools: list[set], size: int, draw: int, random: np.random.Generator) -> list[int]:
    """The same with one set a class, face by face."""
    full = [{i for i in range(len(classes)) if classes[i, k]} for k in range(classes.shape[1])]
    count = [0] * len(full)
    needed = min(range(len(full)), key=lambda k: (len(pools[k]), k))
    ids: list[int] = []
    for _ in range(size // draw):
        if len(pools[needed]) < draw:
            for i in full[needed]:
                for k in range(len(full)):
                    if classes[i, k]:
                        pools[k].add(i)
        chosen = random.choice(sorted(pools[needed]), draw, replace=False)
        for i in chosen:
            for k in range(len(full)):
                if classes[i, k]:
                    pools[k].discard(i)
                    count[k] += 1
        ids += chosen.tolist()
        needed = count.index(min(count))
    return random.permutation(ids).tolist()


def test_slow_twin():
    classes = faces(300)
    momu = Momu(classes, 200, 5, 7)
    pools = [{i for i in range(len(classes)) if classes[i, k]} for k in range(classes.shape[1])]
    for epoch in (1, 2, 3):
        momu.set_epoch(epoch)
        assert list(momu) == slow_epoch(classes, pools, 200, 5, np.random.default_rng((7, epoch)))


def test_resumed_pools_go_on_as_if_nothing_happened():
    classes = faces(500)
    whole, parts = Momu(classes, 300, 10, 3), Momu(classes, 300, 10, 3)
    for epoch in (1, 2, 3):
        whole.set_epoch(epoch)
    for epoch in (1, 2):
        parts.set_epoch(epoch)
    fresh = Momu(classes, 300, 10, 3)
    fresh.restore(parts.state())
    assert list(fresh) == list(whole)  # iterating draws the next epoch by itself
    assert fresh.epoch == 3
    with pytest.raises(DataError, match="hold 500 faces, the data 499"):
        Momu(classes[:499], 300, 10, 3).restore(parts.state())


def test_seeds_differ_and_repeat():
    classes = faces(500)
    orders = [list(Momu(classes, 300, 10, seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_does_not_depend_on_loader_processes(workers):
    classes = faces(300)
    momu = Momu(classes, 40, 4, 0)
    expected = list(momu)
    data = torch.arange(300)
    seen = [int(i) for batch in DataLoader(data, batch_size=7, sampler=momu, num_workers=workers) for i in batch]
    assert seen == expected == list(momu)


def test_too_rare_classes_are_told_by_name():
    classes = faces(300)
    classes[:, 0] = False
    with pytest.raises(DataError, match=r"AU9 has 0; lower .* or leave the unit out"):
        Momu(classes, 100, 10, 0, names=["AU9", *map(str, range(7))])
    classes[:4, 0] = True
    with pytest.raises(DataError, match="AU9 has 4"):
        Momu(classes, 100, 10, 0, names=["AU9", *map(str, range(7))])
    with pytest.raises(ValueError, match="must divide"):
        Momu(faces(), 100, 7)
