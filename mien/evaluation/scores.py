"""Per-face arrays of a scored run, as `maps/faces.npz` holds them, to the numbers of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.data.store import Store
from mien.evaluation.baselines import AT_PREDICTED
from mien.evaluation.collect import PREDICTED, SEGMENTATION
from mien.evaluation.tables import AFFECT, Arrays
from mien.metrics.alignment import by_class, excess, summarise
from mien.metrics.classification import classification_scores
from mien.metrics.errors import affect_matrices, by_group, confusions
from mien.metrics.faithfulness import FAITHFULNESS
from mien.metrics.resampling import people
from mien.schema import IntArray

LANDMARKS_ONLY = "landmarks_only"
"""Column of faces.npz, (N, K): probabilities by a classifier that sees the landmarks alone; a level of results.json."""
CLASSLESS = ("attention", "rollout")
"""Explainers whose map is of no class in particular."""


def face_facts(store: Store, rows: IntArray) -> dict[str, np.ndarray]:
    """What the store knows of each face: id, subject, its own expression, whether landmarks are known, valence, arousal."""
    facts: dict[str, np.ndarray] = {
        "row": rows,
        "id": store.ids[rows].astype(str),
        "subject": np.array([name or "" for name in store.subject[rows]], dtype=str),
        "expression": np.array([name or "" for name in store.expression[rows]], dtype=str),
        "landmarks": np.asarray(store.known_points(rows).any(axis=1)),
    }
    attributes = store.attributes_of(rows)
    found = [one.get("face") for one in attributes]
    if any(word is not None for word in found):
        facts["found"] = np.array([word != "not found" for word in found])
    for name in AFFECT:
        found = [one.get(name) for one in attributes]
        values = np.array([np.nan if value is None or isinstance(value, str) else value for value in found], np.float32)
        if np.isfinite(values).any():
            facts[name] = values
    return facts


def score_faces(faces: Arrays, classes: Sequence[str], methods: Sequence[str], seed: int) -> dict[str, Any]:
    """Everything of results.json that follows from the faces: recognition, alignment, classes, errors."""
    labels, predicted = faces["label"], faces["probabilities"].argmax(1)
    voting = faces.get("voted_probabilities", faces["probabilities"])  # of two heads each answers its own question
    persons = people(faces["subject"]) if "subject" in faces else None
    scores = alignment_of(faces)
    alignment = {
        name: summarise(kinds, labels, predicted, scored_faces(faces, name), classes, persons, seed=seed)["scores"]
        for name, kinds in scores.items()
    }
    regions = {name.removeprefix(SEGMENTATION): alignment.pop(name) for name in list(alignment) if SEGMENTATION in name}
    last = [name for name in alignment if name.startswith("layer-")][-1:]  # a graph or function has none
    cosines = {name: scores[name]["cosine"] for name in (*last, *methods)}
    return {
        "faces": len(labels),
        "faces_with_cue": int(faces["valid"].sum()),
        "classification": classification_scores(faces["probabilities"], labels, classes, persons, seed=seed),
        **(
            {"votes": classification_scores(voting, faces["voted"], classes, persons, seed=seed)}
            if "voted" in faces
            else {}
        ),
        "levels": levels_of(faces, labels),
        **({"end_to_end": end_to_end(faces["found"], predicted, labels)} if "found" in faces else {}),
        "alignment": alignment,
        "excess": {
            name: {
                "over": over,
                **summarise(
                    {kind: excess(values, scores[over][kind]) for kind, values in scores[name].items()},
                    labels,
                    predicted,
                    scored_faces(faces, name),
                    classes,
                    persons,
                    seed=seed,
                ),
            }
            for name, over in compared_with(scores, methods).items()
        },
        **({"segmentation": regions} if regions else {}),
        "per_class": by_class(cosines, labels, predicted, faces["valid"], classes),
        "errors": error_scores(faces, classes),
    }


def levels_of(faces: Arrays, labels: IntArray) -> dict[str, dict[str, float]]:
    """What recognition starts from: `majority`, the most frequent class of these faces named for every face, and where the
    store has landmarks `landmarks_only`. Each with accuracy, balanced_accuracy and macro_f1, from 0 to 1.
    """
    from sklearn.metrics import f1_score

    present = np.unique(labels)
    said = {"majority": np.full(len(labels), np.bincount(labels).argmax())}
    if LANDMARKS_ONLY in faces:
        said[LANDMARKS_ONLY] = faces[LANDMARKS_ONLY].argmax(1)
    return {
        name: {
            "accuracy": float((answers == labels).mean()),
            "balanced_accuracy": float(np.mean([(answers == k)[labels == k].mean() for k in present])),
            "macro_f1": float(f1_score(labels, answers, labels=present, average="macro", zero_division=0)),
        }
        for name, answers in said.items()
    }


def end_to_end(found: npt.NDArray[np.bool_], predicted: IntArray, labels: IntArray) -> dict[str, Any]:
    """From photo to label: a face that was not found is a wrong answer, whatever the net says of the whole crop.

    faces and not_found (counts), accuracy and balanced_accuracy (mean recall of the classes that occur), both from 0 to 1.
    """
    right = (predicted == labels) & found
    recalls = [right[labels == k].mean() for k in np.unique(labels)]
    return {
        "faces": len(labels),
        "not_found": int((~found).sum()),
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(recalls)),
    }


def scored_faces(faces: Arrays, name: str) -> np.ndarray:
    """(N,) bool: faces on which a map or a baseline has a score: the cues that it is held against are there."""
    if name in (PREDICTED, AT_PREDICTED):
        return faces["valid_predicted"]
    if name.startswith("mismatched:"):  # not every face has a partner of its class
        wrong = ":".join(name.split(":")[:2])
        return np.asarray(faces["valid"] & np.isfinite(faces[f"{wrong}:perfect/cosine"]))
    own = f"valid:{name.removeprefix('baseline:class_mean:').removeprefix('ceiling:')}"
    return faces.get(own, faces["valid"])  # an attribution that was trained with a cue of its own


def compared_with(scores: Mapping[str, Any], methods: Sequence[str]) -> dict[str, str]:
    """Map -> row of its class-mean baseline: of the true class, or of the predicted one for maps that are told no label."""
    found = {}
    for name in scores:
        if name.startswith("layer-") or name in CLASSLESS:
            found[name] = "baseline:class_mean_predicted"
        elif name in methods:
            found[name] = "baseline:class_mean"
        elif name == PREDICTED:
            found[name] = AT_PREDICTED
        elif f"baseline:class_mean:{name}" in scores:
            found[name] = f"baseline:class_mean:{name}"
    return found


def alignment_of(faces: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Map name -> score name -> (N,), from the keys `map/score`; faithfulness, which few faces have, is left out."""
    scores: dict[str, dict[str, np.ndarray]] = {}
    for key, values in faces.items():
        name, slash, kind = key.rpartition("/")
        if slash and kind not in FAITHFULNESS:
            scores.setdefault(name, {})[kind] = values
    return scores


def error_scores(faces: Arrays, classes: Sequence[str]) -> dict[str, Any]:
    """Errors by pair of classes, by whether landmarks are known, by the dataset's expression, and by valence and arousal."""
    labels, predicted = faces["label"], faces["probabilities"].argmax(1)
    right = predicted == labels
    return {
        "faces": int((~right).sum()),
        "confusions": confusions(predicted, labels, classes),
        "landmarks": by_group(right, np.where(faces["landmarks"], "known", "unknown")),
        "expression": by_group(right, faces["expression"]),
        "affect": {
            name: affect_matrices(faces[name], predicted, labels, len(classes)) for name in AFFECT if name in faces
        },
    }
