"""Regions of the segmentation head: Dice and IoU against torchmetrics and scikit-learn, the loss against a twin."""

import math

import numpy as np
import pytest
import torch

from mien import maps
from mien.losses.terms import segmentation_loss
from mien.metrics.segmentation import predicted_region, region_scores
from mien.schema import Cue

RANDOM = torch.Generator().manual_seed(0)


def test_scores_are_those_of_scikit_learn_and_torchmetrics():
    from mien.compat import ensure_torchvision

    ensure_torchvision()
    from sklearn.metrics import f1_score, jaccard_score
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

    predicted, true = (torch.rand(4, 1, 6, 7, generator=RANDOM) > share for share in (0.4, 0.7))
    scores = region_scores(predicted, true)
    for b in range(4):
        p, t = predicted[b].flatten(), true[b].flatten()
        assert scores["dice"][b].item() == pytest.approx(100 * f1_score(t, p), rel=1e-6)
        assert scores["iou"][b].item() == pytest.approx(100 * jaccard_score(t, p), rel=1e-6)
        assert scores["dice"][b].item() == pytest.approx(100 * binary_f1_score(p.int(), t.int()).item(), rel=1e-5)
        assert scores["iou"][b].item() == pytest.approx(100 * binary_jaccard_index(p.int(), t.int()).item(), rel=1e-5)


def test_corners():
    none, all_ = torch.zeros(1, 1, 3, 3, dtype=torch.bool), torch.ones(1, 1, 3, 3, dtype=torch.bool)
    for predicted, true, value in ((none, none, 100), (all_, all_, 100), (none, all_, 0), (all_, none, 0)):
        assert {k: v.item() for k, v in region_scores(predicted, true).items()} == {"dice": value, "iou": value}


def test_prediction_is_the_otsu_region_of_the_resized_probabilities():
    logits = torch.randn(3, 1, 4, 4, generator=RANDOM)
    expected = maps.otsu_region(maps.resize(logits, (9, 9)).sigmoid())
    assert torch.equal(predicted_region(logits, (9, 9)), expected)


def test_loss_twin_over_valid_faces():
    logits = torch.randn(3, 1, 4, 4, generator=RANDOM, dtype=torch.float64)
    cue = Cue(torch.rand(3, 1, 4, 4, generator=RANDOM, dtype=torch.float64), torch.tensor([True, False, True]))
    region = maps.otsu_region(cue.maps)
    terms = []
    for b in (0, 2):
        pixels = []
        for z, y in zip(logits[b].flatten().tolist(), region[b].flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-z))
            pixels.append(-math.log(p) if y else -math.log(1 - p))
        terms.append(np.mean(pixels))
    assert segmentation_loss(logits, cue).item() == pytest.approx(np.mean(terms))


def test_no_valid_face_is_zero_with_a_gradient():
    logits = torch.randn(2, 1, 4, 4, generator=RANDOM, requires_grad=True)
    loss = segmentation_loss(logits, Cue(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.bool)))
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert (slope == 0).all()
