"""Guidance without cues does not train; otherwise it is counted how many training faces have a cue, and said everywhere."""

import json

import numpy as np
import pytest
import tiny
import torch

from mien.config import CueConfig
from mien.cues import has_cue, render_cue
from mien.cues.config import CONTROL_KINDS
from mien.data.store import write_store
from mien.errors import DataError, UsageError
from mien.training.loop import fit
from mien.training.session import prepare_session

MASK = {"kind": "landmark_mask"}
USES = {
    "cam-guided": {"guidance": {"weight": 4.0}},
    "second": {"second": {"weight": 1.0, "cue": "landmarks"}},
    "pal": {"guidance": {"weight": 1.0, "attribution": "grad_input"}, "cue": {"kind": "landmarks"}},
    "mask.train": {"mask": {"train": 0.5}},
    "mask.evaluate": {"mask": {"evaluate": True}, "cue": {"kind": "landmarks"}},
    "au_segmentation": {"model": {"segmentation": True}, "loss": {"terms": [{"name": "au_segmentation"}]}},
    "stn": {"transformer": {"kind": "guide"}, "cue": MASK},
    "stn_soft": {"transformer": {"kind": "guide"}, "cue": {"kind": "landmark_soft"}},
    "stn_dilation": {"transformer": {"kind": "guide"}, "cue": {"kind": "landmark_dilation"}},
    "patches": {"transformer": {"kind": "masked"}, "cue": MASK},
    "channel": {"transformer": {"kind": "channel"}, "cue": MASK},
    "landmarks": {"transformer": {"kind": "landmarks"}, "cue": MASK},
    "au_generic": {"guidance": {"weight": 1.0}, "cue": {"kind": "au_generic"}},
    "au_observed": {"guidance": {"weight": 1.0}, "cue": {"kind": "au_observed"}},
    "codebook": {"guidance": {"weight": 1.0}, "cue": {"codebook": "paper"}},
    **{
        f"control_{name}": {"guidance": {"weight": 1.0}, "cue": {"control": name}}
        for name in CONTROL_KINDS if name != "none"
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Faces without landmarks, and faces of which every second has some."""
    folder = tmp_path_factory.mktemp("stores")
    records = tiny.records(splits=("train", "valid", "test"))
    empty = [record._replace(landmarks=None) for record in records]
    half = [record._replace(landmarks=record.landmarks if n % 2 else None) for n, record in enumerate(records)]
    return {
        name: write_store(made, folder / name, dataset="toy", size=tiny.SIZE).path
        for name, made in (("empty", empty), ("half", half))
    }


@pytest.mark.parametrize("name", USES)
def test_a_training_without_a_single_cue_is_refused(stores, tmp_path, name):
    with pytest.raises(DataError) as caught:
        fit(tiny.recipe(stores["empty"], **USES[name]), tmp_path / "run")
    text = str(caught.value)
    assert "\n" not in text
    assert "none of the 42 training faces" in text
    assert ("action unit" if name == "au_observed" else "landmark provider") in text or "landmarks" in text
    assert not (tmp_path / "run").exists()


def test_classes_without_action_units_and_flat_pictures_are_refused(tmp_path):
    neutral = [record for record in tiny.records(splits=("train", "valid", "test")) if record.expression == "Neutral"]
    recipe = {"guidance": {"weight": 1.0}}
    path = write_store(neutral, tmp_path / "neutral", dataset="toy", size=tiny.SIZE).path
    with pytest.raises(DataError, match="no action units in the codebook"):
        prepare_session(tiny.recipe(path, **recipe), tmp_path / "run")
    flat = [record._replace(image=np.full_like(record.image, 60 + n)) for n, record in enumerate(tiny.records())]
    path = write_store(flat, tmp_path / "flat", dataset="toy", size=tiny.SIZE).path
    salient = {"transformer": {"kind": "guide"}, "cue": {"kind": "saliency"}, "data": {"protocol": "paper"}}
    with pytest.raises(DataError, match="no contrast"):
        prepare_session(tiny.recipe(path, **salient), tmp_path / "run")


def test_an_unguided_training_needs_no_cue(stores, tmp_path):
    fit(tiny.recipe(stores["empty"], optim={"epochs": 1}), tmp_path / "run")
    assert "cues" not in json.loads((tmp_path / "run" / "environment.json").read_text())


def test_how_many_faces_have_a_cue_stands_everywhere(stores, tmp_path, capsys):
    """3 of 6 faces of each class have landmarks; Neutral has no action units."""
    sections = {"guidance": {"weight": 1.0}, "second": {"weight": 1.0, "cue": "landmarks"}, "optim": {"epochs": 1}}
    fit(tiny.recipe(stores["half"], **sections), tmp_path / "run")
    printed = capsys.readouterr().out
    assert "guidance: 18 of 42 training faces have a cue (au); 21 have no landmarks" in printed
    assert "second: 21 of 42 training faces have a cue (landmarks)" in printed
    noted = json.loads((tmp_path / "run" / "environment.json").read_text())["cues"]
    assert noted["guidance"] == {"cue": "au", "faces": 42, "with_cue": 18, "without_landmarks": 21}
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert (line["cue_faces_guidance"], line["cue_faces_second"]) == (18, 21)

    from mien.evaluation.evaluate import evaluate
    from mien.report.card import card
    from mien.report.runs import load_run

    evaluate(tmp_path / "run")
    words = card(load_run(tmp_path / "run", "run"))
    assert "18 of 42 training faces have a cue (au)" in words
    assert "21 of 42 training faces have a cue (landmarks)" in words


@pytest.mark.parametrize("sections", [
    {"guidance": {"weight": 1.0, "start_epoch": 3}},
    {"loss": {"terms": [{"name": "high_entropy", "start_epoch": 3}]}},
])  # fmt: skip
def test_guidance_that_no_epoch_has_is_refused(stores, tmp_path, sections):
    with pytest.raises(UsageError, match=r"start_epoch is 3, but training ends after optim\.epochs 2"):
        fit(tiny.recipe(stores["half"], **sections), tmp_path / "run")


@pytest.mark.parametrize("kind", ["au", "au_generic", "au_observed", "landmarks", "landmark_mask", "saliency"])
@pytest.mark.parametrize("codebook", ["corrected", "paper"])
def test_whether_there_is_a_cue_is_what_drawing_says(kind, codebook):
    places = torch.from_numpy(np.stack([tiny.points(), tiny.points() + 100, tiny.points() * np.nan, tiny.points()]))
    labels, images = torch.tensor([0, 1, 2, 3]), torch.rand(4, 3, tiny.SIZE, tiny.SIZE)
    images[1] = 0.5
    units = torch.full((4, 41), torch.nan)
    units[::2] = 3.0
    from mien.schema import ACTION_UNITS

    shared = {"image_size": (tiny.SIZE, tiny.SIZE), "images": images, "action_units": units[:, : len(ACTION_UNITS)]}
    config = CueConfig(kind, codebook)
    drawn = render_cue(config, places, labels, size=(tiny.SIZE, tiny.SIZE), **shared).valid
    assert torch.equal(has_cue(config, places, labels, **shared), drawn)
    assert drawn.any()
    assert not drawn.all()
