"""An AUDetNet on folds of subjects, and on another dataset whose units are matched by name."""

import json

import numpy as np
import pytest
import tiny_audet

from mien.audet.cfg import CfgError
from mien.audet.data import labels_of
from mien.audet.evaluate import evaluate_audet
from mien.audet.train import fit
from mien.data.store import open_store, write_store
from mien.errors import DataError, UsageError
from mien.metrics.action_units import occurrence, occurrence_scores
from mien.schema import ACTION_UNITS

TEXT = tiny_audet.TEXT.replace("output_features=12", "output_features=3").replace(
    "image_size=16", "image_size=16\naction_units=AU2, AU6, AU12"
)


def cfg(*overrides):
    return tiny_audet.cfg("--training.max_epochs", "1", *overrides, text=TEXT)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store and a run of intensities on it."""
    root = tmp_path_factory.mktemp("home")
    tiny_audet.store(root / "store")
    fit(cfg("--data.regress_au_intensities", "True"), root / "store", root / "run")
    return root


def test_folds_of_subjects_train_and_test(home):
    store = open_store(home / "store")
    tests = [labels_of(store, cfg("--data.fold", f"subjects-{k}of4")).test for k in (1, 2, 3, 4)]
    assert sorted(np.concatenate(tests)) == list(range(len(store)))
    for rows in tests:
        assert len(set(store.subject[rows])) == 2
    labels = labels_of(store, cfg("--data.fold", "subjects-1of4"))
    parts = [set(store.subject[rows]) for rows in (labels.train, labels.valid, labels.test)]
    assert sum(map(len, parts)) == 8
    assert labels.report["fold"] == "subjects-1of4"
    with pytest.raises(UsageError, match="no fold 'literature-1'"):
        labels_of(store, cfg("--data.fold", "literature-1"))
    with pytest.raises(CfgError, match="a fold shares no subject"):
        cfg("--data.fold", "subjects-1of4", "--data.shared_subjects", "True")


def test_another_dataset_is_scored_on_the_units_that_both_name(home, tmp_path):
    """Occurrence only, AU12 and AU7, all split test."""
    made = []
    for record in tiny_audet.records(20, seed=5):
        values = np.full(len(ACTION_UNITS), np.nan, np.float32)
        for name in ("AU12", "AU7"):
            values[ACTION_UNITS.index(name)] = 5.0 * (record.action_units[ACTION_UNITS.index("AU12")] >= 2)
        made.append(record._replace(split="test", action_units=values))
    made[3] = made[3]._replace(action_units=None)
    write_store(made, tmp_path / "abroad", dataset="bp4d", size=tiny_audet.SIZE, notes={"au_scale": "occurrence"})
    found = evaluate_audet(home / "run", tmp_path / "abroad")
    assert found == json.loads((home / "run" / "results-abroad.json").read_text())
    assert (found["action_units"], found["not_scored"]) == (["AU12"], ["AU2", "AU6"])
    assert (found["faces"], found["same_data_as_training"]) == (19, False)
    assert "intensity" not in found  # these labels have no strength
    lines = (home / "run" / "predictions-abroad.csv").read_text().splitlines()
    assert lines[0] == "id,AU12,AU12_label"
    table = np.array([[float(cell) for cell in line.split(",")[1:]] for line in lines[1:]])
    expected = occurrence_scores(table[:, :1], occurrence(table[:, 1:]), ["AU12"], cut=2.0)
    assert found["occurrence"]["units"]["AU12"]["f1"] == expected["units"]["AU12"]["f1"]


def test_own_data_is_scored_whole(home):
    found = evaluate_audet(home / "run")
    assert found["same_data_as_training"]
    assert found["not_scored"] == []
    assert set(found["intensity"]["units"]) == {"AU2", "AU6", "AU12"}
    assert (home / "run" / "results.json").is_file()


def test_a_dataset_without_a_shared_unit_is_refused(home, tmp_path):
    made = tiny_audet.records(12, units=("AU1", "AU4"))
    write_store(made, tmp_path / "abroad", dataset="x", size=tiny_audet.SIZE)
    with pytest.raises(DataError, match="no action unit in common: AU2, AU6, AU12 there, AU1, AU4 here"):
        evaluate_audet(home / "run", tmp_path / "abroad")
