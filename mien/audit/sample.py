"""The faces of an audit, and what is known of them, as plain arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.data.store import Store
from mien.datasets.words import find_expression
from mien.evaluation.landmarks_only import landmarks_only
from mien.faces.provider import Face
from mien.faces.quality import quality_of
from mien.metrics.resampling import people
from mien.schema import EXPRESSIONS, FloatArray, IntArray

POSE_STEPS = (15.0, 30.0)
"""Degrees of yaw between frontal, turned and far turned."""
FOLDS = 5
NOTHING = ("", "unknown", "none", "nf", "other")
"""Words of an attribute that name nothing."""
CHUNK = 256
"""Faces whose pictures are in memory at a time."""
MOST_MEANS = 150
"""Training faces a class whose cues are averaged to a baseline."""
MOST_NAMES = 20
"""An attribute with more different words is no group but a name of its own for nearly every face."""


class Sample(NamedTuple):
    """N labelled faces."""

    classes: tuple[str, ...]
    """Of the model, in the order of its answers."""
    labels: IntArray
    """(N,) index into classes, never -1."""
    landmarks: FloatArray
    """(N, 68, 2) pixels of the stored picture, NaN unknown."""
    votes: FloatArray
    """(N, K) annotators' shares over `classes`; rows of NaN without votes."""
    people: IntArray | None
    """(N,) cluster of each face; None where nobody is known."""
    groups: dict[str, npt.NDArray[np.str_]]
    """Attribute -> (N,) value as somebody wrote it down, "" unknown."""
    rows: IntArray
    """(N,) rows of the store."""
    train: tuple[FloatArray, IntArray] | None = None
    """Landmarks and labels of the first MOST_MEANS training faces of each class, which a baseline is made of."""
    labels_like: tuple[str, ...] = ()
    """Attributes that name expressions, so no groups: another opinion on the label."""
    shape_says: IntArray | None = None
    """(N,) class that the shape of the landmarks alone tells (`landmarks_only`), -1 without landmarks; None where nothing tells."""

    @property
    def faces(self) -> int:
        """How many."""
        return len(self.labels)

    def part(self, chosen: IntArray) -> Sample:
        """Some of the faces."""
        return self._replace(
            labels=self.labels[chosen], landmarks=self.landmarks[chosen], votes=self.votes[chosen],
            people=None if self.people is None else self.people[chosen],
            groups={name: values[chosen] for name, values in self.groups.items()}, rows=self.rows[chosen],
            shape_says=None if self.shape_says is None else self.shape_says[chosen],
        )  # fmt: skip


def sample_of(store: Store, rows: IntArray, labels: IntArray, classes: tuple[str, ...]) -> Sample:
    """What the store knows of `rows`; labels (N,) of every row of the store, of `classes`, those of `rows` known."""
    votes = np.nan_to_num(store.votes[rows])
    gather = np.array([[name == one for one in classes] for name in EXPRESSIONS], dtype=np.float32)
    shares = votes @ gather
    total = shares.sum(1, keepdims=True)
    shares = np.where(total > 0, shares / np.maximum(total, 1e-8), np.nan)
    subjects = [name or "" for name in store.subject[rows]]
    fit = np.setdiff1d(np.flatnonzero((labels >= 0) & (store.split == "train")), rows)
    located = fit[store.known_points(fit).all(axis=1)]
    chosen = [located[labels[located] == k][:MOST_MEANS] for k in range(len(classes))]
    others = np.sort(np.concatenate(chosen))
    train = (store.landmarks_of(others), labels[others]) if len(others) else None
    groups = groups_of(store, rows)
    opinions = tuple(name for name, values in groups.items() if names_labels(values))
    return Sample(
        classes, labels[rows], store.landmarks_of(rows), shares.astype(np.float32), people(subjects),
        {name: values for name, values in groups.items() if name not in opinions}, rows, train, opinions,
        shape_answers(store, fit, rows, labels, len(classes)),
    )  # fmt: skip


def shape_answers(store: Store, fit: IntArray, rows: IntArray, labels: IntArray, classes: int) -> IntArray | None:
    """Classes by `landmarks_only`, fitted on the training faces; in FOLDS over people of `rows` where those are too few."""
    known = np.asarray(store.known_points(rows).all(axis=1))
    said = landmarks_only(store, fit, rows, labels, classes) if len(fit) else None
    if said is not None:
        return np.where(known, said.argmax(1), -1)
    persons = people([name or "" for name in store.subject[rows]])
    fold, answers = (
        (np.arange(len(rows)) if persons is None else persons) % FOLDS,
        np.full(len(rows), -1, dtype=np.int64),
    )
    for number in range(FOLDS):
        own = fold == number
        said = landmarks_only(store, rows[~own], rows[own], labels, classes) if own.any() else None
        if said is not None:
            answers[own] = np.where(known[own], said.argmax(1), -1)
    return answers if (answers >= 0).any() else None


def groups_of(store: Store, rows: IntArray) -> dict[str, npt.NDArray[np.str_]]:
    """Attribute -> (N,) group of each face, as the store holds it: words as they are, numbers in thirds of these faces.

    Yaw makes "pose", the size of the face between the eye corners "size of the face"; where landmarks are known, light and
    sharpness are measured on the aligned face (`mien.faces.quality`), and yaw where the store has none. Nothing else is added: an
    attribute of a person that the store does not hold is not there. Words with more than 20 different values, and attributes of
    one value, are left out.
    """
    attributes = store.attributes_of(rows)
    names = sorted({name for one in attributes for name in one})
    found: dict[str, npt.NDArray[np.str_]] = {}
    for name in names:
        values = [one.get(name) for one in attributes]
        if any(isinstance(value, str) for value in values):
            found[name] = np.array(["" if value is None else str(value) for value in values])
        else:
            found[name] = thirds(np.array([np.nan if value is None else float(value) for value in values]))
    seen = measured(store, rows)
    yaw = np.abs(store.pose[rows][:, 0])
    yaw = np.where(np.isfinite(yaw), yaw, np.abs(seen[:, 0]))
    for name, values in zip(("light on the face", "sharpness"), seen.T[1:], strict=True):
        if np.isfinite(values).any():
            found[name] = thirds(values)
    if np.isfinite(yaw).any():
        near, far = POSE_STEPS
        words = np.where(
            yaw < near, f"under {near:.0f}°", np.where(yaw < far, f"{near:.0f}–{far:.0f}°", f"over {far:.0f}°")
        )
        found["pose (yaw)"] = np.where(np.isfinite(yaw), words, "")
    points = store.landmarks_of(rows)
    eyes = np.linalg.norm(points[:, 45] - points[:, 36], axis=1)
    if np.isfinite(eyes).any():
        found["size of the face"] = thirds(eyes)
    return {
        name: values for name, values in found.items() if 2 <= len(np.unique(values[values != ""])) <= MOST_NAMES
    }  # fmt: skip


def measured(store: Store, rows: IntArray) -> FloatArray:
    """(N, 3) yaw in degrees, mean grey level and sharpness of each aligned face, NaN without landmarks."""
    found = np.full((len(rows), 3), np.nan, np.float32)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        points, images = store.landmarks_of(part), store.images(part)
        for k in np.flatnonzero(np.isfinite(points).all((1, 2))):
            box = np.concatenate([points[k].min(0), points[k].max(0)])
            seen = quality_of(images[k], Face(box, points[k], 1.0, "given"))
            found[start + k] = seen.yaw, seen.light, seen.sharpness
    return found


def names_labels(values: npt.NDArray[np.str_]) -> bool:
    """Whether the words of an attribute (N,) are expressions, apart from those that stand for nothing known."""
    words = [word for word in np.unique(values) if word.strip().lower() not in NOTHING]
    return len(words) > 1 and all(find_expression(word) for word in words)


def thirds(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Numbers (N,) as "low", "middle" and "high" by their terciles, with the borders in the words; "" for NaN."""
    known = values[np.isfinite(values)]
    out = np.full(len(values), "", dtype="<U40")
    if len(np.unique(known)) < 3:
        few = np.unique(known)
        for value in few if len(few) == 2 else ():
            out[values == value] = f"{value:.3g}"
        return out
    low, high = np.quantile(known, [1 / 3, 2 / 3])
    with np.errstate(invalid="ignore"):
        out[values <= low] = f"low (to {low:.3g})"
        out[(values > low) & (values <= high)] = "middle"
        out[values > high] = f"high (over {high:.3g})"
    return out
