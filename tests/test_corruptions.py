"""Corruptions: stronger is further away, the same in any batch, landmark-bound where they say so; the table of what they break."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import points

from mien.audit.corruptions import CORRUPTIONS, MOVE, NEED_LANDMARKS, affine, corrupt, faces_of, moved
from mien.audit.robustness import Broken, broken, corruption_error, errors, robustness
from mien.audit.sample import Sample
from mien.errors import UsageError

SIDE = 48


def faces(count=3, rows=None):
    images = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear") * 0.6 + 0.2
    marks = torch.from_numpy(points(SIDE)).expand(count, -1, -1).clone()
    return faces_of(images, marks, np.arange(count) if rows is None else rows)


def test_fifteen_of_five_strengths():
    assert len(CORRUPTIONS) == 15
    assert {*NEED_LANDMARKS, *MOVE} <= {*CORRUPTIONS}
    with pytest.raises(UsageError, match="strength is 6"):
        corrupt("noise", faces(), 6)
    with pytest.raises(UsageError, match="noise"):
        corrupt("noize", faces(), 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stronger_is_further_away_and_stays_a_picture(name):
    start = faces()
    away = []
    for strength in range(1, 6):
        changed = corrupt(name, start, strength)
        assert changed.shape == start.images.shape
        assert changed.min() >= -1e-5
        assert changed.max() <= 1 + 1e-5
        away.append(float((changed - start.images).square().mean()))
    assert away[0] > 0
    assert away[4] > away[0]
    if name not in ("crop", "turn"):  # a larger move may find a likelier place by chance
        assert all(b > a * 0.98 for a, b in pairwise(away))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_face_is_changed_alike_in_any_batch(name):
    together = corrupt(name, faces(), 3)
    whole = faces()
    alone = whole._replace(**{key: getattr(whole, key)[1:2] for key in whole._fields})
    torch.testing.assert_close(corrupt(name, alone, 3)[0], together[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NEED_LANDMARKS)
def test_faces_without_landmarks_stay_as_they_are(name):
    whole = faces()
    whole.landmarks[1, 5] = torch.nan
    changed = corrupt(name, whole, 5)
    assert torch.equal(changed[1], whole.images[1])
    assert not torch.equal(changed[0], whole.images[0])


def test_what_is_hidden():
    whole = faces(1)
    marks = points(SIDE).round().astype(int)
    clothed = corrupt("mask", whole, 4)[0]
    glasses = corrupt("sunglasses", whole, 4)[0]
    mouth, eye = marks[62], marks[36:42].mean(0).round().astype(int)
    assert (clothed - whole.images[0])[:, mouth[1], mouth[0]].abs().max() > 0.05
    assert torch.equal(clothed[:, eye[1], eye[0]], whole.images[0, :, eye[1], eye[0]])
    assert glasses[:, eye[1], eye[0]].max() < 0.15
    assert torch.equal(glasses[:, mouth[1], mouth[0]], whole.images[0, :, mouth[1], mouth[0]])


def test_motion_is_its_loop():
    whole = faces(1)
    whole.numbers[:, 0] = 0  # along x
    length = 0.08 * SIDE
    steps = np.linspace(-0.5, 0.5, max(3, 2 * int(length) + 1)) * length
    image = whole.images[0].numpy()
    twin = np.zeros(3)
    for step in steps:
        at = 24 + step
        low = int(np.floor(at))
        twin += (image[:, 20, low] * (1 - (at - low)) + image[:, 20, low + 1] * (at - low)) / len(steps)
    np.testing.assert_allclose(corrupt("motion", whole, 2)[0, :, 20, 24], twin, atol=1e-5)


def test_a_move_and_its_map():
    one, none = torch.ones(1), torch.zeros(1)
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(moved(picture, affine(one, none, none, none)), picture)
    shifted = moved(picture, affine(one, none, one / 2, none), "zeros")  # a quarter of the side: one pixel
    torch.testing.assert_close(shifted[..., :3], picture[..., 1:])
    assert shifted[..., 3].abs().max() == 0


def test_corruption_error_is_the_published_one():
    own, other = np.array([0.4, 0.5, 0.6]), np.array([0.5, 0.7, 0.9])
    found = corruption_error(own, 0.2, other, 0.3)
    assert found.plain == pytest.approx(1.5 / 2.1)
    assert found.relative == pytest.approx((1.5 - 0.6) / (2.1 - 0.9))
    assert np.isnan(corruption_error(own, 0.2, np.full(3, 0.3), 0.3).relative)


def bright_says(images, target):
    """Two classes by the brightness of the upper half; a map of where it is bright."""
    high = images[:, :, : SIDE // 2].mean((1, 2, 3))
    shares = torch.stack((high, 1 - high), 1)
    return shares, None if target is None else images.mean(1, keepdim=True)


def toy(count=24):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    pictures = rng.integers(60, 120, (count, SIDE, SIDE, 3), dtype=np.uint8)
    pictures[labels == 0, : SIDE // 2] += 100
    marks = np.tile(points(SIDE), (count, 1, 1))
    marks[3] = np.nan
    votes = np.full((count, 2), np.nan, np.float32)
    return Sample(("a", "b"), labels, marks, votes, np.arange(count) // 2, {}, np.arange(count)), pictures


def test_what_breaks_a_known_model():
    sample, pictures = toy()
    found = broken(sample, pictures, bright_says, mapped=8)
    assert found.answers.shape == (15, 5, 24, 2)
    wrong = errors(sample, found)
    names = list(found.names)
    assert np.isnan(wrong[names.index("hand"), :, 3]).all()
    assert wrong[names.index("dark"), 4, sample.labels == 0].mean() == 1  # all look dark
    assert np.nanmean(wrong[names.index("jpeg")]) == 0
    assert np.isfinite(found.alike[names.index("noise"), :, :8]).all()
    assert np.isnan(found.alike[:, :, 8:]).all()
    part = robustness(sample, found, baseline=found, name="itself")
    tables = {table.key: {row.name: row for row in table.rows} for table in part.tables}
    assert tables["accuracy"]["dark"].value < tables["accuracy"]["jpeg"].value
    assert tables["mce"]["mean (relative mCE)"].value == pytest.approx(1)
    assert "1 faces without landmarks" in " ".join(part.cannot)


def test_no_time_is_said():
    sample, pictures = toy(4)
    calls = iter([False, True])
    found = broken(sample, pictures, bright_says, late=lambda: next(calls))
    assert found.names == ("noise",)
    assert "time was over" in " ".join(robustness(sample, found).cannot)
    assert robustness(sample, found._replace(names=())).cannot


def test_the_verdict_does_not_say_more_than_the_numbers():
    """A model that nothing changes breaks under nothing, and one that is never too sure is not called over-confident."""
    sample, _ = toy()
    names = tuple(CORRUPTIONS)
    for sure, right in ((0.6, True), (0.9, False)):
        clean = np.full((24, 2), 1 - sure, np.float32)
        clean[np.arange(24), sample.labels if right else 1 - sample.labels] = sure
        same = np.broadcast_to(clean, (len(names), 5, 24, 2))
        told = " ".join(robustness(sample, Broken(names, clean, same, np.full((len(names), 5, 24), np.nan))).verdict)
        assert "No corruption costs it accuracy on these 24 faces" in told
        assert ("Under no corruption is it over-confident" in told) == right
        assert ("40 points below accuracy" if right else "90 points above accuracy") in told
        assert "-" not in told.replace("over-confident", "")
