"""Swapped faces against the faces that they should have become: twins whose outcome is known (`mien synthesize --twins`).

Behind `mien audet disentangle`. Beside every score of the swaps stand two references: the face of z2 left as it is (the copy), and
what the net makes of the true outcome itself (its reconstruction, the most that its decoder can reach).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien.audet.embed import decode_rows, eye_corners, real_pictures
from mien.audet.nets import AudetNet
from mien.audet.readers import Reader
from mien.audet.regions import inactive
from mien.data.au_folds import subject_numbers
from mien.data.store import Store
from mien.data.twins import Swaps, known_swaps, same_view, twin_groups
from mien.errors import DataError
from mien.metrics.action_units import count, f1, icc_3_1, macro_f1_interval, occurrence
from mien.metrics.counterfactual import (
    HEAD,
    INNER,
    correlation_interval,
    face_texture,
    region_mean,
    region_psnr,
    ssim_map,
)
from mien.metrics.intervals import bootstrap_class_mean, bootstrap_mean, paired_bootstrap
from mien.metrics.probes import unseen_recordings
from mien.schema import ACTION_UNITS, IntArray

FEWEST = 8
"""Swaps with a known outcome, below which nothing is scored."""
SHOWN = ("truth", "reconstruction", "swapped", "copy")
"""Kinds of pictures: the outcome itself, what the net makes of it, the swap, the face of z2 as it is."""
CUTS = {"inner": INNER, "head": HEAD}
"""Parts of a face by which it is recognised: where a decoder paints the expression, and with hair and ears, which it may copy."""
FOLDS, COMPONENTS = 3, 100
"""Of the identity score: parts into which a person's views are dealt, principal components of the texture."""

Array = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]


class Shown(NamedTuple):
    """All that is kept of the pictures of the swaps, by kind."""

    errors: dict[str, dict[str, Array]]
    """kind -> "region metric" -> (S,)."""
    read: dict[str, Array]
    """kind -> (S, A) of the reader, NaN where it found no face; empty without a reader."""
    textures: dict[str, dict[str, Array]]
    """Part of the face (CUTS) -> kind -> (S, D)."""


def counterfactual(
    net: AudetNet, store: Store, rows: IntArray, most: int, reader: Reader | None, seed: int, device: torch.device
) -> dict[str, Any]:
    """Every score of the swaps among `rows` whose outcome is a face of the store, of at most `most` of them.

    Keys: pairs, people, error (region -> psnr, ssim -> kind -> [value, low, high]; `nearer_than_copy`: difference to the copy),
    reader, identity; or skipped with the reason. Intervals are over the people of z2.
    """
    twins = twin_groups(store)
    if not same_view(store, twins):
        return {"skipped": "the store has no twins in one pose and light; mien synthesize --twins makes some"}
    swaps = known_swaps(twins, rows, seed)
    kept = np.sort(np.random.default_rng(seed).permutation(len(swaps.person))[:most])
    swaps = Swaps(*(column[kept] for column in swaps))
    if len(kept) < FEWEST:
        return {"skipped": f"{len(kept)} swaps with a known outcome are too few"}
    people = subject_numbers(store.subject[swaps.person])
    shown = seen_swaps(net, store, swaps, reader, device)
    found: dict[str, Any] = {
        "pairs": len(kept),
        "people": len(np.unique(people)),
        "error": errors_of(shown.errors, people),
    }
    if reader is None:
        found["reader"] = {"skipped": "no reader"}
    else:
        labels = store.action_units[swaps.truth][:, [ACTION_UNITS.index(name) for name in reader.units]]
        found["reader"] = reader_scores(reader, shown.read, labels, people)
    try:
        found["identity"] = {
            name: identity_scores(store, rows, swaps, shown.textures[name], net.size, box) for name, box in CUTS.items()
        }
    except DataError as error:
        found["identity"] = {"skipped": str(error)}
    return found


@torch.no_grad()
def seen_swaps(
    net: AudetNet, store: Store, swaps: Swaps, reader: Reader | None, device: torch.device, batch: int = 64
) -> Shown:
    """Decode every swap and look at it beside its references."""
    errors: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in SHOWN[1:]}
    read: dict[str, list[Array]] = {kind: [] for kind in SHOWN}
    textures: dict[str, dict[str, list[Tensor]]] = {name: {kind: [] for kind in SHOWN} for name in CUTS}
    for start in range(0, len(swaps.person), batch):
        some = Swaps(*(column[start : start + batch] for column in swaps))
        truth = real_pictures(store, some.truth, net.size)
        pictures = {
            "truth": truth,
            "reconstruction": decode_rows(net, store, some.truth, some.truth, device),
            "swapped": decode_rows(net, store, some.actions, some.person, device),
            "copy": real_pictures(store, some.person, net.size),
        }
        corners = eye_corners(store, some.truth)
        acts = inactive(corners, net.size)[:, 0] < 0.5
        for kind, made in pictures.items():
            for name, box in CUTS.items():
                textures[name][kind].append(face_texture(made, corners.unflatten(1, (2, 2)).mean(2), box))
            if reader is not None:
                read[kind].append(reader.read(made, corners))
            if kind != "truth":
                likeness = ssim_map(made, truth)
                for region, mask in (("acting", acts), ("rest", ~acts)):
                    errors[kind].setdefault(f"{region} psnr", []).append(region_psnr(made, truth, mask))
                    errors[kind].setdefault(f"{region} ssim", []).append(region_mean(likeness, mask))
    return Shown(
        {
            kind: {name: torch.cat(parts).double().numpy() for name, parts in own.items()}
            for kind, own in errors.items()
        },
        {kind: np.concatenate(parts) for kind, parts in read.items() if parts},
        {
            name: {kind: torch.cat(parts).double().numpy() for kind, parts in own.items()}
            for name, own in textures.items()
        },
    )


def errors_of(errors: Mapping[str, Mapping[str, Array]], people: IntArray) -> dict[str, Any]:
    """Region -> metric -> kind -> [mean, low, high], with how much nearer the swap is to the truth than the copy, paired."""
    found: dict[str, Any] = {}
    for name, swapped in errors["swapped"].items():
        region, metric = name.split()
        there = np.isfinite(swapped)
        if not there.any():
            continue
        row: dict[str, Any] = {}
        for kind, own in errors.items():
            row[kind] = list(bootstrap_mean(own[name][there], people[there])[:3])
        gain = paired_bootstrap(errors["copy"][name][there], swapped[there], people[there])
        row["nearer_than_copy"] = {"difference": gain.difference, "low": gain.low, "high": gain.high, "p": gain.p}
        found.setdefault(region, {})[metric] = row
    return found


def reader_scores(reader: Reader, read: Mapping[str, Array], labels: npt.ArrayLike, people: IntArray) -> dict[str, Any]:
    """What another reader sees in each kind of picture, against the action units of the true outcome.

    labels (S, A) intensities of the reader's units. Only swaps in which it finds a face in every kind are scored,
    which is kind to a decoder that loses faces: `found` says in how many it finds one, by kind.
    """
    truth = np.asarray(labels, dtype=np.float64)
    there = np.isfinite(np.concatenate([*read.values(), truth], axis=1)).all(1)
    found: dict[str, Any] = {
        "name": reader.name, "units": list(reader.units), "scored": float(there.mean()),
        "found": {kind: float(np.isfinite(values).all(1).mean()) for kind, values in read.items()},
    }  # fmt: skip
    if there.sum() < FEWEST:
        return {"skipped": f"{reader.name} finds a face in {int(there.sum())} of {len(there)} swaps and their outcomes"}
    active, groups = occurrence(truth[there], reader.threshold), people[there]
    scores: dict[str, dict[str, Any]] = {}
    for kind in SHOWN:
        values = read[kind][there]
        said = (values >= np.asarray(reader.cuts)).astype(np.float64)
        each = f1(count(said, active))
        f1_here = [float(np.nanmean(each)), *macro_f1_interval(said, active, groups)]
        try:
            follows: list[float] | None = list(correlation_interval(values, truth[there], groups)[:3])
        except DataError:
            follows = None
        agreed = [icc_3_1(np.stack([values[:, k], truth[there][:, k]], 1)) for k in range(truth.shape[1])]
        scores[kind] = {"f1": f1_here, "correlation": follows, "icc": _mean(agreed) if reader.intensities else None}
    of_truth = scores["truth"]["f1"][0]
    return {**found, "scores": scores, "f1_share_of_truth": scores["swapped"]["f1"][0] / of_truth if of_truth else None}


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def identity_scores(
    store: Store, rows: IntArray, swaps: Swaps, textures: Mapping[str, Array], size: int, box: Box
) -> dict[str, Any]:
    """Who a part of the face belongs to, by a classifier of textures fitted on real faces of the same people in other views.

    It sees nothing of the net, nor of background and clothes, which a decoder may copy. Balanced accuracy over people, with
    intervals: own_face (the face of z2 as it is: what can be hoped for), reconstruction, swapped; as_z1: the share of swaps that are
    misclassified as the person of z1; kept: swapped / own_face. DataError where fewer than two people have two views.
    """
    views, subjects = store.same_person, store.subject
    several = {name for name in set(subjects[rows]) if len(set(views[rows][subjects[rows] == name])) > 1}
    known = rows[np.isin(subjects[rows], list(several))]
    if len(several) < 2:
        raise DataError("fewer than two people are there in two views, so that identity cannot be probed")
    texture = (
        torch.cat([_texture(store, known[k : k + 256], size, box) for k in range(0, len(known), 256)]).double().numpy()
    )
    guesses = {kind: np.full(len(swaps.person), "", dtype=object) for kind in SHOWN[1:]}
    for part in range(FOLDS):
        fit, score = unseen_recordings(subjects[known].astype(str), views[known].astype(str), part, FOLDS)
        held = np.isin(views[swaps.person], np.unique(views[known[score]].astype(str)))
        if held.any():
            name = texture_classifier(texture[fit], subjects[known[fit]])
            for kind, said in guesses.items():
                said[held] = name(textures[kind][held])
    scored = guesses["copy"] != ""
    person, other = (subjects[part][scored].astype(str) for part in (swaps.person, swaps.actions))
    right = {kind: (said[scored] == person).astype(np.float64) for kind, said in guesses.items()}
    found = {kind: list(bootstrap_class_mean(values, person, person)[:3]) for kind, values in right.items()}
    own, swapped = found["copy"][0], found["swapped"][0]
    return {
        "own_face": found["copy"], "reconstruction": found["reconstruction"], "swapped": found["swapped"],
        "as_z1": float((guesses["swapped"][scored] == other).mean()), "chance": 1 / len(several),
        "kept": swapped / own if own else None, "pairs": int(scored.sum()),
    }  # fmt: skip


def _texture(store: Store, rows: IntArray, size: int, box: Box) -> Tensor:
    eyes = eye_corners(store, rows).unflatten(1, (2, 2)).mean(2)
    return face_texture(real_pictures(store, rows, size), eyes, box)


def texture_classifier(textures: Array, people: npt.NDArray[Any]) -> Callable[[Array], npt.NDArray[Any]]:
    """Fit (N, D) textures -> names: principal components, then linear discriminants with shrinkage."""
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline

    parts = PCA(min(COMPONENTS, *textures.shape), svd_solver="randomized", random_state=0)
    model = make_pipeline(parts, LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    model.fit(textures, people.astype(str))
    return lambda some: np.asarray(model.predict(some))
