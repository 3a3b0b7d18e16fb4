"""The baseline that sees landmarks alone."""

import numpy as np
import pytest
import tiny
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mien.evaluation.landmarks_only import landmarks_only, mean_shape, shapes
from mien.faces.align import move_points, similarity
from mien.metrics.discriminant import fitted


class Faces:
    """As much of a store as the baseline reads."""

    def __init__(self, points: np.ndarray) -> None:
        self.landmarks = points

    def landmarks_of(self, rows: np.ndarray) -> np.ndarray:
        return self.landmarks[rows]

    def known_points(self, rows: np.ndarray) -> np.ndarray:
        return np.isfinite(self.landmarks[rows]).all(2)


def moved(count: int, seed: int = 0) -> tuple[Faces, np.ndarray]:
    """Faces whose class is how high the mouth's corners lie, anywhere in their picture, turned and of any size."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    points = np.repeat(tiny.points(100)[None], count, 0)
    points[:, [48, 54], 1] += 4 * (labels[:, None] - 1)
    points += rng.normal(0, 0.7, points.shape)
    angle, size = rng.normal(0, 0.3, count), rng.uniform(0.5, 2, count)
    turn = size[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], 1
    )
    points = np.einsum("nij,npj->npi", turn, points) + rng.normal(0, 50, (count, 1, 2))
    return Faces(points.astype(np.float32)), labels


@pytest.mark.parametrize("kind", ["lda", "mlp"])
def test_reads_the_shape_and_not_the_place(kind):
    faces, labels = moved(600)
    train, rows = np.arange(400), np.arange(400, 600)
    said = landmarks_only(faces, train, rows, labels, 3, kind)
    assert said.shape == (200, 3)
    np.testing.assert_allclose(said.sum(1), 1, atol=1e-5)
    assert (said.argmax(1) == labels[rows]).mean() > {"lda": 0.9, "mlp": 0.7}[kind]
    chance = np.random.default_rng(1).permutation(labels)
    blind = landmarks_only(faces, train, rows, chance, 3, kind)
    assert (blind.argmax(1) == chance[rows]).mean() < 0.45


def test_shapes_are_those_of_a_least_squares_fit():
    """Loop-style twin: each face is laid onto the mean by `similarity`, without its size."""
    faces, _ = moved(20)
    mean = mean_shape(lambda: iter([faces.landmarks[:7], faces.landmarks[7:]]))
    target = np.stack([mean.real, mean.imag], 1)
    for row, found in zip(faces.landmarks, shapes(faces.landmarks, mean), strict=True):
        free = row - row.mean(0)
        free = free / np.linalg.norm(free)
        matrix = similarity(free, target)
        turn = matrix[:, :2] / np.hypot(*matrix[0, :2])
        np.testing.assert_allclose(found.reshape(2, 68).T, move_points(free, np.hstack([turn, [[0], [0]]])), atol=1e-5)


@pytest.mark.parametrize(("classes", "samples", "numbers"), [(7, 900, 40), (2, 60, 90), (3, 400, 5)])
def test_agrees_with_scikit_learn(classes, samples, numbers):
    """In blocks as at once, also with more numbers than samples of a class, and with one that is always the same."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    seen = rng.normal(size=(samples, numbers)) @ rng.normal(size=(numbers, numbers))
    seen += 2 * rng.normal(size=(classes, numbers))[labels]
    seen[:, 3] = 1.5
    other = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(seen, labels)
    own = fitted(lambda: ((seen[k : k + 77], labels[k : k + 77]) for k in range(0, samples, 77)))
    np.testing.assert_allclose(own.probabilities(seen), other.predict_proba(seen), atol=1e-9)


def test_a_face_without_landmarks_gets_the_class_shares():
    faces, labels = moved(300)
    faces.landmarks[-1] = np.nan
    said = landmarks_only(faces, np.arange(200), np.array([298, 299]), labels, 4)
    np.testing.assert_allclose(said[1, :3], np.bincount(labels[:200]) / 200, atol=1e-6)
    assert said[1, 3] == 0


def test_too_little_says_nothing():
    faces, labels = moved(60)
    assert landmarks_only(faces, np.arange(20), np.arange(40, 60), labels, 3) is None
    assert landmarks_only(faces, np.arange(55), np.arange(55, 60), 0 * labels, 3) is None
    faces.landmarks[55:] = np.nan
    assert landmarks_only(faces, np.arange(55), np.arange(55, 60), labels, 3) is None
