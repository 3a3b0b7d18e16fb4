"""What a score is read beside: class-mean cues, the ceiling and mismatched cues, each derived again face by face."""

import numpy as np
import pytest
import tiny
import torch

from mien.cues import CueConfig, render_cue
from mien.data.labels import labels_of
from mien.data.store import open_store
from mien.evaluation import reference
from mien.evaluation.evaluate import evaluate
from mien.evaluation.reference import at_most, same_class_partners
from mien.metrics.alignment import SCORES, alignment_scores, attention_scores
from mien.models import create_model
from mien.training import checkpoint
from mien.training.loop import fit
from mien.training.session import split_rows

FRAME = (tiny.SIZE, tiny.SIZE)
SIDE = 8
"""Of the last layer."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("baselines")
    faces = tiny.store(root / "faces", each=4)
    fit(tiny.recipe(faces.path, guidance={"weight": 2.0}, optim={"epochs": 2}), root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def results(run):
    return evaluate(run, methods="cam")


@pytest.fixture(scope="module")
def saved(run, results):
    with np.load(run / "maps" / "faces.npz") as arrays:
        return dict(arrays)


def cue(store, row: int, label: int, side: int = tiny.SIZE, config: CueConfig | None = None) -> torch.Tensor:
    """(1, 1, side, side) of one face, for any label."""
    points = torch.from_numpy(store.landmarks[row : row + 1].astype(np.float32))
    drawn = render_cue(config or CueConfig(), points, torch.tensor([label]), image_size=FRAME, size=(side, side))
    return drawn.maps


def means_by_hand(run) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Mean cue of each class and of all training faces, one face after the other, at the size of the layer."""
    _, recipe, _ = checkpoint.load_model(run)
    store = open_store(recipe.data.store)
    labels = labels_of(store, recipe.data.scheme)
    drawn: dict[int, list[torch.Tensor]] = {}
    for row in split_rows(store, recipe).train:
        if labels[row] != 0:  # Neutral has none
            drawn.setdefault(int(labels[row]), []).append(cue(store, row, labels[row], SIDE))
    every = [one for part in drawn.values() for one in part]
    return {k: torch.stack(part).mean(0) for k, part in drawn.items()}, torch.stack(every).mean(0)


def test_blind_maps_and_the_ceiling_face_by_face(run, saved):
    """Baselines of the true and the predicted class, the weighted mean, and what the face's own cue scores at that size."""
    store = open_store(checkpoint.load_model(run)[1].data.store)
    means, overall = means_by_hand(run)
    for n, row in enumerate(saved["row"]):
        label, shares = int(saved["label"][n]), saved["probabilities"][n]
        if label == 0:
            continue
        said = int(shares.argmax())
        known = sum(shares[k] for k in means)
        maps = {
            "baseline:class_mean": means[label],
            "baseline:class_mean_predicted": means.get(said, overall),
            "baseline:class_weighted": sum(float(shares[k]) * means[k] for k in means) / float(known),
            "baseline:mean": overall,
            "ceiling": cue(store, row, label, SIDE),
        }
        for name, map_ in maps.items():
            for kind, value in alignment_scores(map_, cue(store, row, label)).items():
                assert saved[f"{name}/{kind}"][n] == pytest.approx(value.item(), abs=2e-4), (name, kind)
        if said != 0:
            at = alignment_scores(means[said], cue(store, row, said))["cosine"].item()
            assert saved["baseline:class_mean@predicted/cosine"][n] == pytest.approx(at, abs=1e-4)


def test_mismatched_cues_face_by_face(run, saved, results):
    """Attention, the face's own cue and the blind map against another face of the class, another class, the inverted cue."""
    _, recipe, _ = checkpoint.load_model(run)
    store = open_store(recipe.data.store)
    labels = labels_of(store, "basic-7")
    means, overall = means_by_hand(run)
    others = reference.others_of(recipe, store, labels, saved["row"], 0)
    for n, row in enumerate(saved["row"]):
        label, said = int(saved["label"][n]), int(saved["probabilities"][n].argmax())
        if label == 0:
            continue
        partner, other = int(others.face[row]), int(others.label[row])
        assert partner != row
        assert partner in saved["row"]
        assert labels[partner] == label
        assert other not in (0, label)
        own = cue(store, row, label)
        wrong = {"same_class": cue(store, partner, label), "other_class": cue(store, row, other), "inverted": 1 - own}
        for name, map_ in wrong.items():
            for end, seen in ((":perfect", own), (":class_mean", means.get(said, overall))):
                value = alignment_scores(seen, map_)["pearson"].item()
                assert saved[f"mismatched:{name}{end}/pearson"][n] == pytest.approx(value, abs=1e-4), (name, end)
    inverted = results["alignment"]["mismatched:inverted:perfect"]["pearson"]["class_mean"]
    assert inverted == pytest.approx(-1, abs=1e-5)
    same = results["alignment"]["mismatched:same_class:perfect"]["cosine"]["class_mean"]
    other = results["alignment"]["mismatched:other_class:perfect"]["cosine"]["class_mean"]
    assert 0.3 < other < same < 1


def test_excess_over_the_class_mean_cue(saved, results):
    """Per face, the mean over classes, with an interval; attention over the predicted class's, CAM over the true one's."""
    overs = {
        "layer-1": "baseline:class_mean_predicted", "layer-5": "baseline:class_mean_predicted",
        "cam": "baseline:class_mean", "cam@predicted": "baseline:class_mean@predicted",
    }  # fmt: skip
    for name, over in overs.items():
        found = results["excess"][name]
        assert found["over"] == over
        valid = saved["valid_predicted"] if "@" in name else saved["valid"]
        for kind in SCORES:
            change, by_class = saved[f"{name}/{kind}"] - saved[f"{over}/{kind}"], []
            for k in range(1, 7):
                chosen = [change[n] for n in range(len(change)) if valid[n] and saved["label"][n] == k]
                by_class += [np.mean(chosen)] if chosen else []
            score = found["scores"][kind]
            assert score["class_mean"] == pytest.approx(np.mean(by_class), abs=1e-5)
            assert score["interval"][0] <= score["class_mean"] <= score["interval"][1]
    assert set(results["excess"]) >= {f"layer-{k}" for k in range(1, 6)} | set(overs)


def test_the_class_mean_is_the_strongest_blind_map(results):
    """Stronger than the mean of all faces, below the ceiling: a map that beats only the latter two knows no face."""
    cosine = {name: kinds["cosine"]["class_mean"] for name, kinds in results["alignment"].items()}
    assert cosine["baseline:uniform"] < cosine["baseline:mean"] < cosine["baseline:class_mean"] < cosine["ceiling"]


def test_class_means_are_kept_with_the_run(run, results, monkeypatch, tmp_path):
    file = run / "maps" / "class_cues.npz"
    before = file.read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    with monkeypatch.context() as patch:
        patch.setattr(reference, "class_cues", refuse)
        assert evaluate(run, methods="cam")["alignment"] == results["alignment"]
        evaluate(run, methods="cam", split="valid")  # the same training faces
        with pytest.raises(AssertionError, match="drawn again"):
            evaluate(run, methods="cam", store=tiny.store(tmp_path / "other", each=2, seed=3).path)
    file.write_bytes(before[:100])
    assert evaluate(run, methods="cam")["alignment"] == results["alignment"]
    assert file.stat().st_size == len(before)


def test_at_most_so_many_faces_of_a_class(run, monkeypatch):
    labels = np.array([0] * 50 + [1] * 3 + [2] * 10)
    rows = np.arange(63)[::-1].copy()
    kept = at_most(labels, rows, 8)
    assert np.bincount(labels[kept]).tolist() == [8, 3, 8]
    assert (np.diff(kept) < 0).all()  # in their order
    assert (at_most(labels, rows, 8) == kept).all()
    monkeypatch.setattr(reference, "MOST", 2)
    _, recipe, _ = checkpoint.load_model(run)
    store = open_store(recipe.data.store)
    own = labels_of(store, "basic-7")
    few = reference.class_cues(recipe, store, own, np.arange(len(store)), SIDE, torch.device("cpu"))
    assert few.faces.tolist() == [0, 2, 2, 2, 2, 2, 2]
    assert few.means.shape == (7, 1, SIDE, SIDE)


def test_partners_are_a_cycle_through_each_class():
    labels, usable = np.array([0, 1, 1, 0, 1, 2, 1, 0]), np.array([1, 1, 1, 1, 1, 1, 0, 1], dtype=bool)
    rows = np.arange(8) + 100
    for seed in range(5):
        partner = same_class_partners(labels, usable, rows, seed)
        assert partner[5] == -1  # alone in its class
        assert partner[6] == -1  # nothing is known of it
        for k, own in enumerate(partner):
            if own >= 0:
                assert own != rows[k]
                assert labels[own - 100] == labels[k]
        assert sorted(partner[partner >= 0]) == [100, 101, 102, 103, 104, 107]  # each is used once


def test_attention_is_what_is_mismatched(run, saved):
    model, recipe, _ = checkpoint.load_model(run)
    store = open_store(recipe.data.store)
    from mien.data.transforms import normalise

    n = int(np.flatnonzero(saved["label"] == 3)[0])
    images = normalise(torch.from_numpy(store.images(saved["row"][n : n + 1])).permute(0, 3, 1, 2))
    with torch.no_grad():
        features = model(images).features[-1]
    value = attention_scores(features, 1 - cue(store, saved["row"][n], 3))["cosine"].item()
    assert saved["mismatched:inverted/cosine"][n] == pytest.approx(value, abs=1e-4)
    assert create_model(recipe.model, 7).backbone.sides[-1] == SIDE
