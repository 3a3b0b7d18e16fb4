"""`mien audet disentangle`: what z1 and z2 of a run know, whether they depend, and what happens when they are swapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien import draw
from mien.audet.counterfactual import counterfactual
from mien.audet.data import split_of
from mien.audet.dependency import shuffled_order
from mien.audet.disentangle_page import Swap, outcome_picture, page, swap_picture
from mien.audet.embed import (
    Embedded,
    decode_rows,
    device_of,
    embed,
    eye_corners,
    pooled,
    read_again,
    real_pictures,
)
from mien.audet.nets import AudetNet
from mien.audet.readers import open_reader
from mien.audet.run import load_audet, read_run
from mien.audet.spec import Cfg
from mien.data.au_folds import subject_numbers
from mien.data.store import Store, open_store
from mien.data.twins import known_swaps, twin_groups
from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.metrics.action_units import count, f1, occurrence
from mien.metrics.disentangle import MEASURES, dependence_test, identity_followed, psnr, spread, units_followed
from mien.metrics.probes import Factor, logistic_probe, probe_matrix, unseen_recordings
from mien.schema import ACTION_UNITS, ByteArray, IntArray
from mien.training import checkpoint

DEPENDENCE_FACES = 400
"""Most faces of the permutation tests, whose time grows with the square."""
PICTURED, OUTCOMES = 6, 8
"""Rows of the pictures of swaps, and of swaps beside their outcomes."""


class Faces(NamedTuple):
    """What is known of the faces that a run is examined on."""

    store: Store
    rows: IntArray
    active: np.ndarray
    """(N, A) 1, 0, NaN over the units of the net."""
    subjects: IntArray
    """(N,) number of the subject."""


def disentangle_audet(
    run: Path,
    data: Path | None = None,
    split: Literal["test", "valid", "train", "all"] = "test",
    against: Path | None = None,
    faces: int = 1000,
    draws: int = 199,
    seed: int = 0,
    reader: str = "auto",
) -> dict[str, Any]:
    """Examine a run and write disentangle.json, disentangle.md and disentangle.png into its folder.

    Where the store has twins, disentangle-outcomes.png too: swaps beside what they should have become.

    Args:
        run: run folder of `mien audet train`.
        data: prepared store; that of the training when not given.
        split: faces to examine; `all` for a store without a training split.
        against: another run on the same units, for example one with discriminator_loss_lambda 0, examined in the same way.
        faces: most faces, drawn evenly.
        draws: permutations of the dependency tests, which exchange whole people.
        seed: of the synthetic faces, the splits of the probes, the permutations and the pairs.
        reader: who reads action units in swaps whose outcome is known: blendshapes, the run folder of another net, none, or auto
            (blendshapes where there is the face model).

    Raises:
        DataError: too few faces. UsageError: numbers out of range, or a reader that is not independent.

    """
    if faces < 8 or draws < 1:
        raise UsageError(f"--faces {faces} must be at least 8 and --draws {draws} at least 1.")
    cfg, facts = read_run(run)
    store = open_store(data or Path(facts["store"]))
    rows = chosen_rows(store, cfg, split, faces, seed)
    report: dict[str, Any] = {
        "run_version": checkpoint.RUN_VERSION, "store": store.info.dataset, "store_fingerprint": store.fingerprint,
        "split": split, "faces": len(rows), "seed": seed, "draws": draws, "runs": {},
    }  # fmt: skip
    pictures = []
    for folder in [run] if against is None else [run, against]:
        known = known_faces(store, rows, folder)
        report["subjects"] = len(np.unique(known.subjects))
        net, its = load_audet(folder), read_run(folder)[0]
        found, swaps = examine(net, its, known, draws, seed)
        found["counterfactual"] = compared(net, its, known, split, folder, reader, faces, seed)
        name = str(folder) if folder.name in report["runs"] else folder.name
        report["runs"][name] = {**found, "faces_trained_on": trained_on(store, rows, folder)}
        pictures.append(swaps)
        if folder == run and "skipped" not in found["counterfactual"]:
            outcomes = picture_of_outcomes(net, its, store, rows_of(store, its, split), seed)
            draw.write_png(run / "disentangle-outcomes.png", outcomes)
    write_atomic(run / "disentangle.json", json.dumps(report, indent=1, allow_nan=False))
    write_atomic(run / "disentangle.md", page(report))
    if pictures[0] is not None:
        draw.write_png(run / "disentangle.png", pictures[0])
    print(page(report))
    return report


def chosen_rows(store: Store, cfg: Cfg, split: str, faces: int, seed: int) -> IntArray:
    """Up to `faces` rows of a split, drawn evenly, in order; DataError with fewer than 8."""
    rows = rows_of(store, cfg, split)
    if len(rows) < 8:
        raise DataError(
            f"{store.path}: {len(rows)} faces in split '{split}' are too few to examine; give another --split, or all."
        )
    return np.sort(np.random.default_rng(seed).permutation(rows)[:faces])


def rows_of(store: Store, cfg: Cfg, split: str) -> IntArray:
    """All rows of a split, or of the store for `all`."""
    chosen: IntArray = np.arange(len(store)) if split == "all" else getattr(split_of(store, cfg), split)
    return chosen


def compared(
    net: AudetNet, cfg: Cfg, known: Faces, split: str, run: Path, reader: str, faces: int, seed: int
) -> dict[str, Any]:
    """Swaps against their true outcomes, among all faces of the split: a subset of them would lack the outcomes."""
    if net.decoder is None or not net.z2_channels:
        return {"skipped": f"the net has no {'decoder' if net.decoder is None else 'z2'}"}
    other, why = open_reader(reader, run)
    found = counterfactual(net, known.store, rows_of(known.store, cfg, split), faces, other, seed, device_of(cfg))
    if other is None and "reader" in found:
        found["reader"] = {"skipped": why}
    return found


def picture_of_outcomes(net: AudetNet, cfg: Cfg, store: Store, rows: IntArray, seed: int) -> ByteArray:
    """Some swaps of different people beside their outcomes."""
    swaps = known_swaps(twin_groups(store), rows, seed)
    order = np.random.default_rng(seed).permutation(len(swaps.person))
    picked = np.unique(store.subject[swaps.person[order]].astype(str), return_index=True)[1]
    some = order[np.sort(picked)[:OUTCOMES]]
    actions, person, truth = (column[some] for column in swaps)
    made = decode_rows(net, store, actions, person, device_of(cfg))
    return outcome_picture(
        [
            [store.image(int(a)), store.image(int(p)), picture, store.image(int(t))]
            for a, p, picture, t in zip(actions, person, made, truth, strict=True)
        ]
    )


def trained_on(store: Store, rows: IntArray, run: Path) -> int:
    """How many of the rows a run was trained on; 0 for a store that it was not trained on."""
    cfg, facts = read_run(run)
    own = facts["store_fingerprint"] == store.fingerprint
    return int(np.isin(rows, split_of(store, cfg).train).sum()) if own else 0


def known_faces(store: Store, rows: IntArray, run: Path) -> Faces:
    """Labels of rows of a store over the units of a run."""
    data = read_run(run)[0].data
    units = store.action_units[rows][:, [ACTION_UNITS.index(name) for name in data.action_units]]
    return Faces(store, rows, occurrence(units, data.occurrence_threshold), subject_numbers(store.subject[rows]))


def examine(net: AudetNet, cfg: Cfg, known: Faces, draws: int, seed: int) -> tuple[dict[str, Any], ByteArray | None]:
    """Every number of one run, and the picture of its swaps (None without a decoder or z2)."""
    device = device_of(cfg)
    seen = embed(net, known.store, known.rows, device)
    first, second = (numbers(part) for part in (seen.z1, seen.z2))
    parts = {"z1": first.numpy(), "z2": second.numpy(), "z": torch.cat([first, second], 1).numpy()}
    if seen.skips.shape[1]:
        parts["z2 and skips"] = torch.cat([second, seen.skips.double()], 1).numpy()
    found: dict[str, Any] = {
        "dependency": {"kind": cfg.loss.dependency, "weight": cfg.loss.discriminator_loss_lambda},
        "units": list(net.action_units),
        "probes": probe_matrix(parts, factors_of(known), known.subjects, seed=seed),
        "dependence": dependence(first, second, known.subjects, draws, seed),
        "collapse": {"z1": spread(parts["z1"]), "z2": spread(parts["z2"])},
    }
    if net.decoder is None or not net.z2_channels:
        return {**found, "swap": {"skipped": f"the net has no {'decoder' if net.decoder is None else 'z2'}"}}, None
    subjects, generator = torch.from_numpy(known.subjects), torch.Generator().manual_seed(seed)
    order = shuffled_order("other_subject", len(known.rows), generator, subjects)
    here, there = np.arange(len(known.rows)), order.numpy()
    own, swapped, other = (
        redone(net, known, of_z1, of_z2, device) for of_z1, of_z2 in ((here, here), (here, there), (there, here))
    )
    found["swap"] = swap_scores(known, seen, own, swapped, there, seed, cut_of(net))
    signal = {"own": own, "other_z2": swapped, "other_z1": other}
    found["collapse"]["psnr"] = {name: float(made.psnr.mean()) for name, made in signal.items()}
    return found, picture_of_swaps(net, known, own, swapped, there, device)


def numbers(part: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, D) float64; a vector that is laid out over the places of a map counts once."""
    if part.numel() and bool((part == part[:, :, :1, :1]).all()):
        part = part[:, :, :1, :1]
    return part.flatten(1).double()


def cut_of(net: AudetNet) -> float:
    """From where a prediction says that a unit is active."""
    return net.threshold if net.regresses else 0.5


def macro_f1(predicted: npt.ArrayLike, active: npt.ArrayLike) -> float:
    """Mean F1 of the units that have one; NaN where none has."""
    scores = f1(count(predicted, active))
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def factors_of(known: Faces) -> dict[str, Factor]:
    """What the store knows of its faces and an embedding may know too."""
    store, rows = known.store, known.rows
    factors = {
        "AU": Factor("units", known.active, "subjects"),
        "identity": Factor("classes", known.subjects, "images", recordings_of(known)),
        "pose": Factor("values", store.pose[rows], "subjects"),
    }
    attributes = store.attributes_of(rows)
    numeric = {name for row in attributes for name, value in row.items() if not isinstance(value, str)}
    light = sorted(name for name in numeric if name.startswith("light"))
    if light:
        numbers = [[row.get(name, np.nan) for name in light] for row in attributes]
        factors["light"] = Factor("values", np.array(numbers, dtype=np.float64), "subjects")
    if all("skin" in row for row in attributes):
        factors["skin"] = Factor("classes", np.array([str(row["skin"]) for row in attributes]), "subjects")
    return factors


def recordings_of(known: Faces) -> np.ndarray | None:
    """(N,) recording of each face: its group of one person, which shares light and background, else the task that a reader of
    videos names; None where not all faces have one.
    """
    groups = known.store.same_person[known.rows]
    if all(name is not None for name in groups):
        return np.array([str(name) for name in groups])
    tasks = [one.get("task") for one in known.store.attributes_of(known.rows)]
    return np.array([str(task) for task in tasks]) if all(task is not None for task in tasks) else None


def dependence(first: Tensor, second: Tensor, subjects: IntArray, draws: int, seed: int) -> dict[str, Any]:
    """Every measure between z1 and z2, with its permutation test over people; nothing without z2."""
    if not second.shape[1]:
        return {"skipped": "the net has no z2"}
    return {
        name: dependence_test(measure, first, second, subjects, draws=draws, seed=seed, most=DEPENDENCE_FACES)._asdict()
        for name, measure in MEASURES.items()
    }


class Redone(NamedTuple):
    """What a net makes of the pictures that it decoded, when it sees them again."""

    seen: Embedded
    psnr: Tensor
    """(N,) dB between the picture and the face of the same row."""


@torch.no_grad()
def redone(
    net: AudetNet, known: Faces, of_z1: IntArray, of_z2: IntArray, device: torch.device, batch: int = 64
) -> Redone:
    """Decode z1 of some faces with z2 of others ((N,) places in `known`), and show the pictures to the net again."""
    again, signal, store = [], [], known.store
    for start in range(0, len(of_z1), batch):
        some = slice(start, start + batch)
        first, second = known.rows[of_z1[some]], known.rows[of_z2[some]]
        pictures = decode_rows(net, store, first, second, device)
        output = read_again(net, pictures, eye_corners(store, second), device)
        parts = (output.z1, output.z2, output.action_units, pooled(output.skips, len(first)))
        again.append([part.float().cpu() for part in parts])
        signal.append(psnr(real_pictures(store, known.rows[some], net.size), pictures))
    return Redone(Embedded(*(torch.cat(part) for part in zip(*again, strict=True))), torch.cat(signal))


@torch.no_grad()
def picture_of_swaps(
    net: AudetNet, known: Faces, own: Redone, swapped: Redone, order: IntArray, device: torch.device
) -> ByteArray:
    """The pairs that differ in most units: face of z1, its reconstruction, face of z2, the swap."""
    labels = np.nan_to_num(known.active)
    picked = np.argsort(-np.abs(labels - labels[order]).sum(axis=1), kind="stable")[:PICTURED]
    rows = []
    for k, other in zip(picked.tolist(), order[picked].tolist(), strict=True):
        made = [decode_rows(net, known.store, known.rows[[k]], known.rows[[of]], device)[0] for of in (k, other)]
        faces = [known.store.image(int(known.rows[of])) for of in (k, other)]
        predicted = [some.seen.units[k].numpy() >= cut_of(net) for some in (own, swapped)]
        shown = (known.active[k] == 1, predicted[0], known.active[other] == 1, predicted[1])
        rows.append(Swap((faces[0], made[0], faces[1], made[1]), shown))
    return swap_picture(rows, net.action_units)


def swap_scores(
    known: Faces, seen: Embedded, own: Redone, swapped: Redone, order: IntArray, seed: int, cut: float
) -> dict[str, Any]:
    """Whose action units and whose identity the faces decoded from z1 of one and z2 of another show.

    `units_of_z1`: 1 those of z1's face, 0 those of z2's, as the net itself reads them. `f1_of_z1`: macro F1 of what the net
    reads, cut at `cut`, against the labels of z1's face, beside that of answering yes to everything. Beside both the same for
    z1's face decoded with its own z2, the most that can be hoped for. `identity`: what a probe on embeddings of real pictures,
    fitted on other recordings of the same people (tasks, or stretches of time), says.
    """
    different = known.subjects != known.subjects[order]
    followed = [
        units_followed(units[different].numpy(), known.active[different], known.active[order][different])
        for units in (swapped.seen.units, own.seen.units)
    ]
    found: dict[str, Any] = {
        "pairs": int(different.sum()),
        "units_of_z1": _known(followed[0]),
        "units_of_z1_own_z2": _known(followed[1]),
        "f1_of_z1": _known(macro_f1(swapped.seen.units.numpy() >= cut, known.active)),
        "f1_of_z1_own_z2": _known(macro_f1(own.seen.units.numpy() >= cut, known.active)),
        "f1_always_active": _known(macro_f1(np.ones(known.active.shape), known.active)),
    }
    try:
        fit, held = unseen_recordings(known.subjects, recordings_of(known))
    except DataError as error:
        return {**found, "identity": {"skipped": str(error)}}
    probe = logistic_probe(_features(seen, fit), known.subjects[fit])
    pairs = np.flatnonzero(different & np.isin(order, held) & np.isin(known.subjects, known.subjects[fit]))
    if not len(pairs):
        return {**found, "identity": {"skipped": "no pair of known subjects"}}
    shares = identity_followed(
        probe.predict(_features(swapped.seen, pairs)), known.subjects[pairs], known.subjects[order][pairs]
    )
    alone = float((probe.predict(_features(own.seen, held)) == known.subjects[held]).mean())
    return {
        **found,
        "identity": {
            **shares,
            "own_picture": alone,
            "chance": 1 / len(np.unique(known.subjects[fit])),
            "pairs": len(pairs),
        },
    }


def _features(some: Embedded, rows: IntArray) -> np.ndarray:
    return torch.cat([numbers(some.z1), numbers(some.z2)], 1)[rows].numpy()


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
