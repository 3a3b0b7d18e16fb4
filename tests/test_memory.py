"""Memory grows by a few hundred bytes a face, whatever is done with a store: peaks of Python's and NumPy's at two sizes."""

import shutil
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import tiny

from mien.data.store import Store, open_store
from mien.datasets.inventory import audit
from mien.evaluation.evaluate import evaluate
from mien.evaluation.landmarks_only import landmarks_only
from mien.metrics import resampling
from mien.training.loop import fit

FEW, MANY = 60, 360
"""Faces of each class and split."""
A_FACE = 1100
"""Bytes a stored face, of which every second one is scored: two names, labels, action units and votes of each, and 40 scores."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [tiny.store(folder / str(each), each=each, size=16).path for each in (FEW, MANY)]


def peak(job: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def a_face(job: Callable[[Store], object], stores) -> float:
    """Bytes that each further face of a store adds to the peak."""
    few, many = (open_store(path) for path in stores)
    job(open_store(stores[0]))  # what is made once
    found = [peak(lambda store=store: job(store)) for store in (few, many)]
    return (found[1] - found[0]) / (len(many) - len(few))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks that both stores fill."""
    for module in ("data.store", "data.framed", "datasets.screen", "evaluation.landmarks_only"):
        monkeypatch.setattr(f"mien.{module}.BLOCK", 256)
    monkeypatch.setattr("mien.faces.landmarks.MOST_SHAPES", 256)


def test_landmarks_alone_are_read_a_block_at_a_time(stores):
    """Copies of all points, complex and standardised, were 3 KB a training face."""

    def job(store: Store) -> None:
        rows = np.arange(len(store))
        labels = rows % 7
        assert landmarks_only(store, rows[store.split == "train"], rows[store.split == "test"], labels, 7) is not None

    assert a_face(job, stores) < 400


def test_scoring(stores, tmp_path):
    """Everything of `mien evaluate`, on a store of other faces than the training's."""
    run = tmp_path / "run"
    data = {"near_duplicates": "keep"}  # these faces are all alike
    fit(
        tiny.recipe(
            stores[0], data=data, model={"size": 16}, guidance={"weight": 1.0}, optim={"epochs": 1, "batch": 60}
        ),
        run,
    )
    runs = iter([shutil.copytree(run, tmp_path / f"run{k}") for k in range(3)])

    def job(store: Store) -> None:
        evaluate(next(runs), store=store.path, methods="cam", batch=64)

    assert a_face(job, stores) < A_FACE


def test_check(stores):
    """Numbers of the landmarks; the search for near-duplicates has a test of its own (test_near.py)."""
    assert a_face(lambda store: audit(store, near=False), stores) < 1000


def test_kept_draws_are_bytes():
    """Draws of 2,000 people as float64, kept and concatenated, were 200 MB."""
    resampling._kept_counts.cache_clear()
    totals = np.random.default_rng(0).normal(size=(2000, 2))
    assert peak(lambda: resampling.resampled(totals, lambda sums: sums[:, 0], 2000, 0)) < 24e6
