"""`mien audet disentangle`: what z1 and z2 of a run know, whether they depend, and what happens when they are swapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien import checkpoint, draw
from mien.audet.data import split_of
from mien.audet.dependency import shuffled_order
from mien.audet.disentangle_page import page, swap_picture
from mien.audet.embed import Embedded, device_of, embed
from mien.audet.nets import AudetNet
from mien.audet.run import load_audet, read_run
from mien.audet.spec import Cfg
from mien.data.au_folds import subject_numbers
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError
from mien.metrics.action_units import occurrence
from mien.metrics.disentangle import (
    MEASURES,
    Factor,
    dependence_test,
    identity_followed,
    logistic_probe,
    probe_matrix,
    psnr,
    spread,
    units_followed,
    unseen_images,
)
from mien.schema import ACTION_UNITS, IntArray

DEPENDENCE_FACES = 400
"""Most faces of the permutation tests, whose time grows with the square."""
PICTURED = 6
"""Rows of the picture of swaps."""


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
) -> dict[str, Any]:
    """Examine a run and write disentangle.json, disentangle.md and disentangle.png into its folder.

    Args:
        run: run folder of `mien audet train`.
        data: prepared store; that of the training when not given.
        split: faces to examine; `all` for a store without a training split.
        against: another run on the same units, for example one with discriminator_loss_lambda 0, examined in the same way.
        faces: most faces, drawn evenly.
        draws: permutations of the dependency tests.
        seed: of the drawn faces, the splits of the probes, the permutations and the pairs.

    Raises:
        DataError: too few faces. UsageError: numbers out of range.

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
    picture = None
    for folder in [run] if against is None else [run, against]:
        net, own = load_audet(folder), read_run(folder)[0]
        known = known_faces(store, rows, net)
        report["subjects"] = len(np.unique(known.subjects))
        found, swaps = examine(net, own, known, draws, seed)
        name = str(folder) if folder.name in report["runs"] else folder.name
        report["runs"][name] = found
        picture = picture if folder != run or swaps is None else swaps
    checkpoint.write_atomic(run / "disentangle.json", json.dumps(report, indent=1, allow_nan=False))
    checkpoint.write_atomic(run / "disentangle.md", page(report))
    if picture is not None:
        draw.write_png(run / "disentangle.png", picture)
    print(page(report))
    return report


def chosen_rows(store: Store, cfg: Cfg, split: str, faces: int, seed: int) -> IntArray:
    """Up to `faces` rows of a split, drawn evenly, in order; DataError with fewer than 8."""
    rows = np.arange(len(store)) if split == "all" else getattr(split_of(store, cfg), split)
    if len(rows) < 8:
        raise DataError(
            f"{store.path}: {len(rows)} faces in split '{split}' are too few to examine; give another --split, or all."
        )
    return np.sort(np.random.default_rng(seed).permutation(rows)[:faces])


def known_faces(store: Store, rows: IntArray, net: AudetNet) -> Faces:
    """Labels of rows of a store for a net."""
    units = store.action_units[rows][:, [ACTION_UNITS.index(name) for name in net.action_units]]
    return Faces(store, rows, occurrence(units, net.threshold), subject_numbers(store.subject[rows]))


def examine(net: AudetNet, cfg: Cfg, known: Faces, draws: int, seed: int) -> tuple[dict[str, Any], Any]:
    """Every number of one run, and the picture of its swaps (None without a decoder or z2)."""
    device = device_of(cfg)
    seen = embed(net, known.store, known.rows, device)
    first, second = (part.flatten(1).double() for part in (seen.z1, seen.z2))
    parts = {"z1": first.numpy(), "z2": second.numpy(), "z": torch.cat([first, second], 1).numpy()}
    found: dict[str, Any] = {
        "dependency": {"kind": cfg.loss.dependency, "weight": cfg.loss.discriminator_loss_lambda},
        "units": list(net.action_units),
        "probes": probe_matrix(parts, factors_of(known), known.subjects, seed=seed),
        "dependence": dependence(first, second, draws, seed),
        "collapse": {"z1": spread(parts["z1"]), "z2": spread(parts["z2"])},
    }
    if net.decoder is None or not net.z2_channels:
        return {
            **found,
            "swap": {"skipped": "the net has no decoder" if net.decoder is None else "the net has no z2"},
        }, None
    order = shuffled_order(
        "other_subject", len(known.rows), torch.Generator().manual_seed(seed), torch.from_numpy(known.subjects)
    )
    swapped = decoded(net, seen.z1, seen.z2[order], device)
    own = decoded(net, seen.z1, seen.z2, device)
    found["swap"] = swap_scores(net, known, seen, own, swapped, order.numpy(), seed)
    found["collapse"]["psnr"] = reconstruction(net, known, seen, own, swapped, order, device)
    return found, swap_picture(known.store, known.rows, net, known.active, own, swapped, order.numpy(), PICTURED)


def factors_of(known: Faces) -> dict[str, Factor]:
    """What the store knows of its faces and an embedding may know too."""
    store, rows = known.store, known.rows
    factors = {
        "AU": Factor("units", known.active, "subjects"),
        "identity": Factor("classes", known.subjects, "images"),
        "pose": Factor("values", store.pose[rows], "subjects"),
    }
    attributes = [store.attributes[row] for row in rows]
    numeric = {name for row in attributes for name, value in row.items() if not isinstance(value, str)}
    light = sorted(name for name in numeric if name.startswith("light"))
    if light:
        numbers = [[row.get(name, np.nan) for name in light] for row in attributes]
        factors["light"] = Factor("values", np.array(numbers, dtype=np.float64), "subjects")
    if all("skin" in row for row in attributes):
        factors["skin"] = Factor("classes", np.array([str(row["skin"]) for row in attributes]), "subjects")
    return factors


def dependence(first: Tensor, second: Tensor, draws: int, seed: int) -> dict[str, Any]:
    """Every measure between z1 and z2, with its permutation test; nothing without z2."""
    if not second.shape[1]:
        return {"skipped": "the net has no z2"}
    rows = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))[:DEPENDENCE_FACES]
    a, b = first[rows], second[rows]
    return {
        name: dependence_test(measure, a, b, draws=draws, seed=seed)._asdict() for name, measure in MEASURES.items()
    }


class Redone(NamedTuple):
    """Decoded pictures, and what the net makes of them when it sees them again."""

    pictures: Tensor
    """(N, 3, H, W) in [-1, 1]."""
    seen: Embedded


@torch.no_grad()
def decoded(net: AudetNet, z1: Tensor, z2: Tensor, device: torch.device, batch: int = 64) -> Redone:
    """Pictures of z1 with z2, and their own embeddings and action units."""
    pictures, again = [], []
    for start in range(0, len(z1), batch):
        some = slice(start, start + batch)
        picture = net.decode(z1[some].to(device), z2[some].to(device)).float()
        output = net(net.standardise((picture * 0.5 + 0.5).clamp(0, 1)))
        pictures.append(picture.cpu())
        again.append((output.z1.float().cpu(), output.z2.float().cpu(), output.action_units.float().cpu()))
    return Redone(torch.cat(pictures), Embedded(*(torch.cat(part) for part in zip(*again, strict=True))))


def swap_scores(
    net: AudetNet, known: Faces, seen: Embedded, own: Redone, swapped: Redone, order: IntArray, seed: int
) -> dict[str, Any]:
    """Whose action units and whose identity the faces decoded from z1 of one and z2 of another show.

    `units_of_z1`: 1 those of z1's face, 0 those of z2's, as the net itself reads them; beside it the same for z1's face
    decoded with its own z2, the most that can be hoped for. `identity`: what a probe on embeddings of real pictures, fitted
    on other pictures of the same people, says.
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
    }
    try:
        fit, held = unseen_images(known.subjects, seed)
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
    return torch.cat([some.z1[rows].flatten(1), some.z2[rows].flatten(1)], 1).double().numpy()


def reconstruction(
    net: AudetNet, known: Faces, seen: Embedded, own: Redone, swapped: Redone, order: Tensor, device: torch.device
) -> dict[str, float]:
    """PSNR in dB of decoded pictures with the face: from its own parts, with z2, and with z1 of another face.

    A part that the decoder ignores can be exchanged at no cost.
    """
    pixels = torch.from_numpy(known.store.images(known.rows)).permute(0, 3, 1, 2)
    size = [net.size, net.size]
    real = torch.nn.functional.interpolate(pixels.float(), size=size, mode="bilinear", antialias=True) / 127.5 - 1
    other = decoded(net, seen.z1[order], seen.z2, device)
    made = {"own": own, "other_z2": swapped, "other_z1": other}
    return {name: float(psnr(real, redone.pictures).mean()) for name, redone in made.items()}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
