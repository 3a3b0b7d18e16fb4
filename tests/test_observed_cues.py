"""Cues from a face's own action units, where the units come from, and what a codebook makes of them."""

import json
import pickle

import numpy as np
import pytest
import tiny
import torch

from mien.cues import CueConfig, mean_cue, render_cue
from mien.cues.action_units import face_ellipses, windowed_coverage
from mien.cues.codebook import distinct_ellipses, drawn_units, geometry, load_codebook
from mien.cues.observed import draw_observed_face, strengths
from mien.cues.reading import read_units
from mien.cues.verb import cues
from mien.data.au_table import write_unit_table
from mien.data.masking import label_leak
from mien.data.observed import ObservedStore, open_faces
from mien.data.store import open_store
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.schema import ACTION_UNITS, EXPRESSIONS, scheme_classes
from mien.training.loop import fit

SIDE = 112
FRAME = (SIDE, SIDE)
GRID = (56, 28)
"""The grid that small maps are drawn on: here nothing is averaged."""


def faces(count=1):
    return torch.from_numpy(tiny.points(SIDE)).repeat(count, 1, 1)


def units(**values):
    """(1, A) intensities, NaN where not named."""
    row = torch.full((1, len(ACTION_UNITS)), float("nan"))
    for name, value in values.items():
        row[0, ACTION_UNITS.index(name)] = value
    return row


def drawn(action_units, size=GRID, landmarks=None, **config):
    marks = faces(len(action_units)) if landmarks is None else landmarks
    labels = torch.full((len(action_units),), -1)
    return render_cue(
        CueConfig(kind="au_observed", **config), marks, labels, image_size=FRAME, size=size, action_units=action_units
    )


def test_one_unit_is_its_ellipses_times_a_fifth_of_its_intensity():
    whole = drawn(units(AU12=5.0))
    book = geometry("corrected", FRAME, torch.device("cpu"))
    numbers = [k for k, e in enumerate(distinct_ellipses(load_codebook("corrected")))
               if e in load_codebook("corrected").action_units["AU12"]]  # fmt: skip
    used = torch.zeros(len(book.offset), 1, dtype=torch.bool)
    used[numbers] = True
    expected = windowed_coverage(face_ellipses(faces(), book), used, FRAME, GRID)
    torch.testing.assert_close(whole.maps, expected)
    torch.testing.assert_close(drawn(units(AU12=2.0)).maps, 0.4 * expected)


@pytest.mark.parametrize("size", [GRID, (112, 112)])
def test_several_units_are_the_maximum_over_units(size):
    """Slow twin: every unit alone, then the maximum; exact on a grid where nothing is averaged."""
    values = {"AU1": 2.0, "AU4": 5.0, "AU6": 1.0, "AU12": 3.0, "AU25": 4.0}
    alone = [drawn(units(**{name: 5.0}), size).maps * value / 5 for name, value in values.items()]
    torch.testing.assert_close(drawn(units(**values), size).maps, torch.stack(alone).amax(0))


@pytest.mark.parametrize("codebook", ["corrected", "paper"])
@pytest.mark.parametrize("name", ["Happiness", "Surprise", "Disgust"])
def test_full_units_of_an_expression_are_its_cue(codebook, name):
    members = load_codebook(codebook).expressions[name]
    label = torch.tensor([scheme_classes("basic-7").index(name)])
    config = CueConfig(codebook=codebook)
    for size in ((14, 14), (112, 112)):
        expected = render_cue(config, faces(), label, image_size=FRAME, size=size)
        found = drawn(units(**dict.fromkeys(members, 5.0)), size, codebook=codebook)
        torch.testing.assert_close(found.maps, expected.maps, atol=1e-5, rtol=1e-5)
        assert found.valid.all()


def test_paper_drawing_keeps_the_order_of_strengths():
    maps = drawn(units(AU4=5.0, AU12=2.5), (28, 28), codebook="paper").maps[0, 0]
    brow, mouth = maps[8:13, 8:20].max(), maps[18:24].max()
    assert brow > mouth > 0.2


def test_the_differentiable_drawing_is_the_same():
    values = units(AU1=2.0, AU12=3.0, AU25=5.0).repeat(3, 1)
    marks = (faces(3) + torch.tensor([0.0, 1, 2])[:, None, None]).requires_grad_()
    slow = drawn(values, (14, 14), marks)
    torch.testing.assert_close(slow.maps, drawn(values, (14, 14), marks.detach()).maps, atol=1e-5, rtol=1e-4)
    slow.maps.sum().backward()
    assert torch.isfinite(marks.grad).all()


def test_every_face_gets_its_own_units_whatever_the_batch():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.uniform(0, 5, (300, len(ACTION_UNITS))).astype(np.float32))
    values[rng.random(values.shape) < 0.7] = float("nan")
    together = drawn(values, (7, 7))
    for k in (0, 128, 299):
        one = drawn(values[k : k + 1], (7, 7))
        torch.testing.assert_close(together.maps[k], one.maps[0], atol=1e-6, rtol=1e-5)
        assert together.valid[k] == one.valid[0]


def test_what_is_too_weak_unlabelled_or_not_drawn_counts_as_absent():
    rows = torch.cat([units(), units(AU12=0.9), units(AU12=1.0), units(AU45=5.0), units(AU12=0.9, AU4=3.0)])
    assert drawn(rows).valid.tolist() == [False, False, True, False, True]
    assert drawn(rows, least=0.5).valid.tolist() == [False, True, True, False, True]
    assert (drawn(rows).maps[[0, 1, 3]] == 0).all()
    table = drawn_units("corrected", torch.device("cpu"))
    assert strengths(units(AU12=7.0), table, 1.0).max() == 1


def test_a_face_counts_if_the_points_of_its_own_units_are_known():
    marks = faces(2)
    marks[:, 48:] = float("nan")  # no mouth
    found = drawn(torch.cat([units(AU1=5.0), units(AU12=5.0)]), landmarks=marks)
    assert found.valid.tolist() == [True, False]
    assert torch.isfinite(found.maps).all()
    point = torch.zeros(1, 68, 2)
    assert not drawn(units(AU1=5.0), landmarks=point).valid.any()
    assert not drawn(units(AU1=5.0), landmarks=point, codebook="paper").maps.isnan().any()


def test_controls_apply():
    values = torch.cat([units(AU12=5.0), units(AU4=5.0), units()])
    plain = drawn(values)
    draws = torch.Generator().manual_seed(0)
    config = CueConfig(kind="au_observed", control="shuffled")
    labels = torch.tensor([1, 4, 0])
    shuffled = render_cue(config, faces(3), labels, image_size=FRAME, size=GRID, generator=draws, action_units=values)
    torch.testing.assert_close(shuffled.maps[:2], plain.maps[:2].flip(0))
    mean, _ = mean_cue(config, [(faces(3), labels, None, values)], image_size=FRAME, size=GRID)
    torch.testing.assert_close(mean[0], plain.maps[:2].mean(0))
    with pytest.raises(UsageError, match="needs cue 'au'"):
        CueConfig(kind="au_observed", control="other_class")


def test_wrong_settings_are_named():
    drawn_without = CueConfig(kind="au_observed")
    with pytest.raises(UsageError, match="needs the action units of every face"):
        render_cue(drawn_without, faces(), torch.tensor([1]), image_size=FRAME, size=GRID)
    for least in (0.0, 5.5, float("nan")):
        with pytest.raises(UsageError, match=r"cue\.least"):
            CueConfig(least=least)


def test_an_own_codebook_with_units_that_mien_does_not_name(tmp_path):
    ellipse = {"x": {"30": 1.0}, "y": {"30": 1.0}, "ax": 0.2, "ay": 0.2}
    book = {"expressions": {}, "action_units": {"AU11": [ellipse], "AU9": [ellipse]}}
    (tmp_path / "own.json").write_text(json.dumps(book))
    assert drawn(units(AU9=5.0), codebook=str(tmp_path / "own.json")).valid.all()
    table = drawn_units(str(tmp_path / "own.json"), torch.device("cpu"))
    assert [ACTION_UNITS[k] for k in table.columns] == ["AU9"]
    marks, book_ = faces(), geometry(str(tmp_path / "own.json"), FRAME, torch.device("cpu"))
    maps, valid = draw_observed_face(marks, torch.ones(1, 1), book_, table, FRAME, GRID)
    assert valid.all()
    assert maps.amax() > 0.999


# --- where the units come from ---


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("data") / "store").path


@pytest.fixture(scope="module")
def file(store, tmp_path_factory):
    """Predictions for all faces but the last: AU12 for Happiness, AU4 for Anger, nothing for others."""
    faces = open_store(store)
    values = np.zeros((len(faces), 2), np.float32)
    values[faces.expression == "Happiness", 0] = 4
    values[faces.expression == "Anger", 1] = 3
    path = tmp_path_factory.mktemp("units") / "aus.csv"
    write_unit_table(path, [str(name) for name in faces.ids[:-1]], ["AU12", "AU4"], values[:-1])
    return path


def test_a_store_takes_its_units_from_a_file(store, file):
    plain, observed = open_store(store), open_faces(store, file)
    assert open_faces(store, None).fingerprint == plain.fingerprint != observed.fingerprint
    column = observed.action_units[:, ACTION_UNITS.index("AU12")]
    assert (column[:-1] == 4 * (plain.expression[:-1] == "Happiness")).all()
    assert np.isnan(column[-1])
    assert np.isnan(observed.action_units[:, ACTION_UNITS.index("AU6")]).all()
    again = pickle.loads(pickle.dumps(observed))
    assert isinstance(again, ObservedStore)
    np.testing.assert_array_equal(again.action_units, observed.action_units)
    np.testing.assert_array_equal(again.image(3), plain.image(3))


def test_a_file_of_other_faces_is_refused(store, tmp_path):
    write_unit_table(tmp_path / "aus.csv", ["somebody"], ["AU12"], np.ones((1, 1), np.float32))
    with pytest.raises(DataError, match="names no face of the store"):
        open_faces(store, tmp_path / "aus.csv")
    with pytest.raises(DataError, match="does not exist"):
        open_faces(store, tmp_path / "no.csv")


def test_training_and_evaluation_take_the_units_of_the_file(store, file, tmp_path):
    recipe = tiny.recipe(
        store,
        data={"action_units": file}, cue={"kind": "au_observed"}, guidance={"weight": 1.0}, optim={"epochs": 1},
    )  # fmt: skip
    fit(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_text().count("train_guidance") == 1
    results = evaluate(tmp_path / "run", batch=16)
    with np.load(tmp_path / "run" / "maps" / "faces.npz") as kept:
        names = np.array(EXPRESSIONS)[kept["label"]]
        expected = np.isin(names, ["Happiness", "Anger"])
        np.testing.assert_array_equal(kept["valid"], expected)
    assert results["faces_with_cue"] == expected.sum()
    assert "mismatched:other_class" not in results["alignment"]
    assert results["cue"]["kind"] == "au_observed"


def test_masks_by_labelled_units_tell_the_label(store, file):
    mask, cue = {"evaluate": True}, {"kind": "au_observed"}
    assert label_leak(tiny.recipe(store, mask=mask, cue=cue))
    assert not label_leak(tiny.recipe(store, mask=mask, cue=cue, data={"action_units": file}))


def test_mien_cues_draws_them(store, file, tmp_path):
    maps = cues(
        store, cue="au_observed", action_units=file, size=7, out=tmp_path / "m.npz", sheet=tmp_path / "sheet.png"
    )
    shown = (maps.max((1, 2)) > 0)[:-1]
    np.testing.assert_array_equal(shown, np.isin(open_store(store).expression[:-1], ["Happiness", "Anger"]))
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    np.savez(tmp_path / "points.npz", landmarks=np.zeros((1, 68, 2), np.float32))
    with pytest.raises(UsageError, match="au_observed needs a prepared store"):
        cues(tmp_path / "points.npz", cue="au_observed", out=tmp_path / "m.npz")


# --- reading units by the codebook ---


def test_reading_of_a_smile():
    found = read_units({"AU12": 0.92, "AU6": 0.71, "AU4": 0.1, "AU1": 0.0}, 0.5)
    assert found.text == "AU12 0.9, AU6 0.7 -> Happiness"
    assert found.fit == pytest.approx((0.92 + 0.71) / (1 + 1 + 0.1))


def test_reading_corners():
    assert read_units({"AU12": 0.2}, 0.5) == ("Neutral", 1.0, "no action unit -> Neutral")
    assert read_units({"AU1": 1.0, "AU4": 1.0, "AU15": 1.0, "AU17": 1.0, "AU6": 1.0}, 0.5)[:2] == ("Sadness", 1.0)
    alone = read_units({"AU45": 0.9}, 0.5)  # in nobody's codebook
    assert (alone.expression, alone.fit) == ("Neutral", 0.0)
    assert read_units({"AU14": 0.9, "AU12": 0.9}, 0.5).expression == "Contempt"
    assert read_units({"AU14": 0.9, "AU12": 0.9}, 0.5, expressions=("Happiness", "Sadness")).expression == "Happiness"
