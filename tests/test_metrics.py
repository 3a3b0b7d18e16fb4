import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from mien import maps as m
from mien.compat import ensure_torchvision
from mien.errors import DataError
from mien.metrics import alignment as al
from mien.metrics import classification as cl
from mien.metrics import intervals as iv

CLASSES = ("Neutral", "Happiness", "Surprise", "Fear")


def run(n: int = 200, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares, labels


def blobs(batch: int = 4, size: int = 20, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return m.min_max(m.resize(torch.rand(batch, 1, 5, 5, generator=generator), (size, size)))


# classification


def test_classification_agrees_with_sklearn():
    shares, labels = run()
    predicted = shares.argmax(1)
    assert cl.accuracy(predicted, labels) == pytest.approx(sk.accuracy_score(labels, predicted))
    assert cl.balanced_accuracy(predicted, labels) == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert cl.macro_f1(predicted, labels) == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert (cl.confusion_matrix(predicted, labels, 4) == sk.confusion_matrix(labels, predicted)).all()


def test_per_class_twin():
    shares, labels = run(40)
    predicted = shares.argmax(1)
    for k, (name, row) in enumerate(cl.per_class(predicted, labels, CLASSES).items()):
        hits = sum(1 for p, t in zip(predicted, labels, strict=True) if p == t == k)
        true, said = sum(1 for t in labels if t == k), sum(1 for p in predicted if p == k)
        assert name == CLASSES[k]
        assert row["recall"] == pytest.approx(hits / true)
        assert row["precision"] == pytest.approx(hits / said)
        assert row["f1"] == pytest.approx(2 * hits / (true + said))


def test_calibration_twin():
    shares, labels = run(300)
    top, right = shares.max(1), shares.argmax(1) == labels
    error = 0.0
    for b in range(15):
        rows = [i for i in range(300) if b / 15 < top[i] <= (b + 1) / 15]
        if rows:
            error += len(rows) / 300 * abs(np.mean(top[rows]) - np.mean(right[rows]))
    assert cl.calibration_error(shares, labels) == pytest.approx(error, abs=1e-6)
    assert cl.calibration_error(np.eye(4)[labels], labels) == pytest.approx(0)


def test_calibration_takes_probabilities_as_they_are():
    """A softmax that rounds to a hair above 1 is no logit: one such value changes next to nothing."""
    shares, labels = run(300)
    before = cl.calibration_error(shares, labels)
    top = int(shares.max(1).argmax())
    beyond = shares.copy()
    beyond[top] = np.eye(4)[shares[top].argmax()] * 1.0000001
    exact = shares.copy()
    exact[top] = np.eye(4)[shares[top].argmax()]
    assert cl.calibration_error(beyond, labels) == pytest.approx(cl.calibration_error(exact, labels), abs=1e-6)
    assert cl.calibration_error(beyond, labels) == pytest.approx(before, abs=0.01)
    assert cl.classification_scores(beyond, labels, list("abcd"))["calibration_error"] == pytest.approx(
        before, abs=0.01
    )
    for wrong in (np.log(shares), shares * 2, np.full_like(shares, np.nan)):
        with pytest.raises(DataError, match="no probabilities"):
            cl.calibration_error(wrong, labels)


def test_absent_and_unlabelled_classes():
    shares, labels = run()
    labels[labels == 3] = -1
    scores = cl.classification_scores(shares, labels, CLASSES)
    json.dumps(scores, allow_nan=False)
    assert scores["absent"] == ["Fear"]
    assert scores["unlabelled"] == int((labels == -1).sum())
    assert scores["per_class"]["Fear"]["recall"] is None
    assert scores["per_class"]["Fear"]["f1"] is None
    known = labels >= 0
    predicted = shares.argmax(1)[known]
    assert scores["balanced_accuracy"] == pytest.approx(
        np.mean([(predicted[labels[known] == k] == k).mean() for k in range(3)])
    )
    low, high = scores["accuracy_interval"]
    assert low < scores["accuracy"] < high
    low, high = scores["balanced_accuracy_interval"]
    assert low < scores["balanced_accuracy"] < high


def test_never_predicted_and_perfect():
    labels = np.array([0, 1, 2, 3])
    scores = cl.classification_scores(np.eye(4), labels, CLASSES)
    assert scores["accuracy"] == scores["balanced_accuracy"] == scores["macro_f1"] == 1
    assert scores["accuracy_interval"][1] == 1
    assert scores["accuracy_interval"][0] < 0.6  # four faces prove little
    constant = np.eye(4)[[0, 0, 0, 0]]
    scores = cl.classification_scores(constant, labels, CLASSES)
    assert scores["balanced_accuracy"] == 0.25
    fear = scores["per_class"]["Fear"]
    assert fear.pop("recall_interval") == [0, pytest.approx(0.793, abs=1e-3)]  # Wilson's upper end of 0 of 1
    assert fear == {"recall": 0, "precision": None, "f1": 0, "count": 1}


@pytest.mark.parametrize(
    ("shares", "labels", "match"),
    [
        (np.full((2, 3), 1 / 3), [0, 1], "do not fit"),
        (np.full((2, 4), 0.25), [0], "do not fit"),
        (np.full((2, 4), 0.25), [0, 4], "row 1 is outside"),
        (np.full((2, 4), 0.25), [0.0, 1.0], "integer"),
        (np.array([[1, 0, 0, 0], [3.0, 1, 1, 1]]), [0, 1], "row 1 holds no probabilities"),
        (np.array([[np.nan, 0, 0, 0], [1.0, 0, 0, 0]]), [0, 1], "row 0"),
        (np.full((2, 4), 0.25), [-1, -1], "no labelled"),
    ],
)
def test_classification_bad_input(shares, labels, match):
    with pytest.raises(DataError, match=match):
        cl.classification_scores(shares, labels, CLASSES)


# intervals


def test_mcnemar_twin():
    first, second = np.array([1, 1, 1, 1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 0, 1, 0, 1])
    from math import comb

    tail = sum(comb(5, k) for k in range(2)) / 2**5
    assert iv.mcnemar(first, second) == pytest.approx(2 * tail)
    assert iv.mcnemar(second, first) == iv.mcnemar(first, second)
    assert iv.mcnemar(first, first) == 1


# alignment


def test_scores_twins_and_others():
    ensure_torchvision()
    from torchmetrics.functional import cosine_similarity

    maps, cue = blobs(), blobs(seed=1)
    scores = al.alignment_scores(maps, cue)
    others = cosine_similarity(maps.flatten(1), cue.flatten(1), reduction="none")
    torch.testing.assert_close(scores["cosine"], others)
    for b in range(4):
        a, c = maps[b, 0].double().numpy(), cue[b, 0].double().numpy()
        assert scores["pearson"][b].item() == pytest.approx(stats.pearsonr(a.ravel(), c.ravel()).statistic, abs=1e-5)
        dot = sum(a[y, x] * c[y, x] for y in range(20) for x in range(20))
        norm = sum(v * v for v in a.ravel()) ** 0.5 * sum(v * v for v in c.ravel()) ** 0.5
        assert scores["cosine"][b].item() == pytest.approx(dot / norm, abs=1e-5)
        inside = sum(a[y, x] for y in range(20) for x in range(20) if c[y, x] >= 0.5)
        assert scores["energy"][b].item() == pytest.approx(inside / a.sum(), abs=1e-5)
        y, x = np.unravel_index(a.argmax(), a.shape)
        assert scores["pointing"][b].item() == float(c[y, x] >= 0.5)


def test_perfect_and_baseline():
    cue = blobs()
    for name, score in al.alignment_scores(cue, cue).items():
        assert (score > (0.5 if name == "energy" else 0.999)).all()
    uniform = al.alignment_scores(torch.ones(4, 1, 3, 3), cue)
    area = (cue >= 0.5).float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(uniform["pointing"], area)
    torch.testing.assert_close(uniform["energy"], area)
    assert uniform["pearson"].abs().max() < 1e-3
    assert (uniform["cosine"] > 0.5).all()


def test_corners():
    cue = blobs()
    assert all((s == 0).all() for n, s in al.alignment_scores(torch.zeros_like(cue), cue).items() if n != "pointing")
    assert all((s == 0).all() for s in al.alignment_scores(cue, torch.zeros_like(cue)).values())
    assert (al.cam_cos(torch.full_like(cue, 3.0), cue) == 0).all()  # a constant CAM becomes all zero
    broken = cue.clone()
    broken[0, 0, 0, 0] = float("nan")
    for score in al.cam_scores(broken, cue).values():
        assert score[0].isnan()
        assert score[1:].isfinite().all()
    with pytest.raises(DataError, match="do not fit"):
        al.alignment_scores(cue[:2], cue)


def test_class_mean_maps_twin():
    """The mean cue of each face's class, by hand; a class without any takes the mean of all."""
    means, faces, overall = blobs(4), torch.tensor([0, 3, 1, 7]), blobs(1, seed=5)
    labels, shares = torch.tensor([1, 0, 3]), torch.tensor([[0.5, 0.2, 0.3, 0.0], [1.0, 0, 0, 0], [0, 0, 0.25, 0.75]])
    blind, mixed = (
        al.class_mean_maps(means, faces, overall, labels),
        al.class_weighted_maps(means, faces, overall, shares),
    )
    for b, label in enumerate(labels.tolist()):
        expected = means[label] if faces[label] else overall[0]
        assert torch.equal(blind[b], expected)
        known = [k for k in range(4) if faces[k]]
        total = sum(float(shares[b, k]) for k in known)
        by_hand = sum(float(shares[b, k]) * means[k] for k in known) / total if total else overall[0]
        torch.testing.assert_close(mixed[b], by_hand)


def test_excess_takes_an_undefined_score_for_nothing():
    found = al.excess(np.array([0.8, np.nan, 0.1]), np.array([0.7, 0.5, np.nan]))
    assert found.tolist() == pytest.approx([0.1, -0.5, 0.1])


def test_scores_stay_in_their_range():
    cue = blobs(64, size=32)
    for other in (cue, 1 - cue):
        assert all((score.abs() <= 1).all() for score in al.alignment_scores(other, cue).values())


def test_energy_does_not_depend_on_the_mass():
    maps, cue = blobs(), blobs(seed=1)
    whole = m.energy_in_mask(maps, cue)
    for scale in (1e-4, 1e-9, 1e-20, 1e-30, 1e6, 1e30):
        torch.testing.assert_close(m.energy_in_mask(maps * scale, cue), whole, atol=1e-5, rtol=0)
    for b in range(4):
        inside = sum(v for v, c in zip(maps[b].flatten().tolist(), cue[b].flatten().tolist(), strict=True) if c >= 0.5)
        assert whole[b].item() == pytest.approx(inside / maps[b].sum().item(), abs=1e-5)
    assert (m.energy_in_mask(torch.zeros_like(maps), cue) == 0).all()


def test_pointing_ties():
    cue = torch.tensor([[[[1.0, 0.4], [0.5, 0.0]]]])
    assert al.pointing(torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]]), cue).item() == 0.5
    assert al.pointing(torch.tensor([[[[-1.0, -2.0], [-2.0, -2.0]]]]), cue).item() == 1
    assert al.pointing(torch.full((1, 1, 2, 2), 0.7), cue).item() == 0.5


def published_att_cos(features: torch.Tensor, cue: torch.Tensor) -> torch.Tensor:
    """Loop over samples with the published calls: aligned corners, clamp to the old range, shift."""
    result = []
    for f, c in zip(features, cue, strict=True):
        attention = f.mean(0)[None, None]
        low, high = attention.min(), attention.max()
        large = torch.nn.functional.interpolate(
            attention, c.shape[-2:], mode="bilinear", align_corners=True, antialias=True
        )
        large = large.clamp(low, high)
        large = large - large.min() if large.min() < 0 else large
        result.append(torch.nn.functional.cosine_similarity(large.flatten(), c.flatten(), dim=0))
    return torch.stack(result)


@pytest.mark.parametrize("size", [7, 14, 28])
def test_att_cos_against_the_published_resize(size):
    """Not the same corners, so not the same number: within 0.04 on rough random maps, equal at the cue's own size."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 4, size, size, generator=generator)
    cue = blobs(8, 112)
    assert (al.att_cos(features, cue) - published_att_cos(features, cue)).abs().max() < 0.04
    same = torch.randn(2, 3, 20, 20, generator=generator)
    torch.testing.assert_close(al.att_cos(same, blobs(2)), published_att_cos(same, blobs(2)))


def test_cam_cos_is_published():
    raw, cue = torch.randn(3, 1, 7, 7, generator=torch.Generator().manual_seed(0)), blobs(3, 112)
    for b in range(3):
        low = (raw[b] - raw[b].min()) / (raw[b].max() - raw[b].min())
        large = torch.nn.functional.interpolate(low[None], (112, 112), mode="bilinear", align_corners=False).clamp(0, 1)
        expected = torch.nn.functional.cosine_similarity(large.flatten(), cue[b].flatten(), dim=0)
        torch.testing.assert_close(al.cam_cos(raw, cue)[b], expected)


def test_summarise_twin():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(-1, 4, 60), rng.integers(4, size=60)
    valid = labels != 0
    scores = {"cosine": rng.random(60), "own": rng.random(60)}
    scores["cosine"][5] = np.nan
    result = al.summarise(scores, labels, predicted, valid, CLASSES)
    json.dumps(result, allow_nan=False)
    cosine = result["scores"]["cosine"]
    rows: dict[str, list[float]] = {name: [] for name in CLASSES}
    right, wrong = [], []
    for i in range(60):
        if valid[i] and labels[i] >= 0:
            value = 0.0 if np.isnan(scores["cosine"][i]) else scores["cosine"][i]
            rows[CLASSES[labels[i]]].append(value)
            (right if labels[i] == predicted[i] else wrong).append(value)
    assert cosine["per_class"]["Neutral"] is None
    for name in CLASSES[1:]:
        assert cosine["per_class"][name] == pytest.approx(np.mean(rows[name]))
    assert cosine["class_mean"] == pytest.approx(np.mean([np.mean(rows[name]) for name in CLASSES[1:]]))
    assert cosine["sample_mean"] == pytest.approx(np.mean(right + wrong))
    assert (cosine["correct"], cosine["wrong"]) == pytest.approx((np.mean(right), np.mean(wrong)))
    assert cosine["interval"][0] < cosine["class_mean"] < cosine["interval"][1]
    assert cosine["undefined"] == (1 if labels[5] > 0 else 0)
    assert result["counts"]["scored"] + result["counts"]["not_valid"] == result["counts"]["total"] == 60
    assert result["scores"]["own"]["higher_is_better"] is None


def test_summarise_without_anything_valid():
    result = al.summarise({"cosine": [0.5, 0.5]}, [0, 0], [0, 1], [False, False], CLASSES)
    assert result["scores"]["cosine"]["class_mean"] is None
    assert result["counts"]["scored"] == 0
    json.dumps(result, allow_nan=False)


def test_summarise_bad_input():
    with pytest.raises(DataError, match="'cosine' has shape"):
        al.summarise({"cosine": [0.5]}, [0, 0], [0, 1], [True, True], CLASSES)
    with pytest.raises(DataError, match="outside"):
        al.summarise({"cosine": [0.5]}, [9], [0], [True], CLASSES)
