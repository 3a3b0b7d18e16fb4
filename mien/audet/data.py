"""Which faces of a store train and validate an AUDetNet, and what is known of each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mien.audet.faces import au_targets
from mien.audet.momu import Mask, Momu, classes_of
from mien.audet.spec import Cfg
from mien.data import folds
from mien.data.au_folds import refuse_leaks, unit_split
from mien.data.store import Store, open_store
from mien.errors import DataError, UsageError
from mien.files import write_atomic
from mien.schema import ACTION_UNITS, FloatArray, IntArray


class Labels(NamedTuple):
    """Rows of the store and their labels; only rows with a label of a predicted unit are in a part."""

    train: IntArray
    valid: IntArray
    test: IntArray
    units: FloatArray
    """(N, A) intensities 0-5 of the cfg's units, NaN unknown, of all rows of the store."""
    targets: Tensor
    """(N, A) what the AU loss compares; NaN unknown."""
    subjects: Tensor
    """(N,) int64 number of the subject among those of train, -1 for others and unknown ones."""
    subject_count: int
    report: dict[str, Any]
    """How the rows were chosen, and how often each unit is active in train."""


def labels_of(store: Store, cfg: Cfg) -> Labels:
    """Split and labels of a store under a cfg.

    Train, valid and test share no subject; a validation split is carved out of train, in whole subjects, where the store
    has none. With data.shared_subjects the store's own splits are taken as they are.

    Raises:
        DataError: no labels of a unit, subjects on both sides, or subjects that an option needs are unknown.

    """
    units = store.action_units[:, [ACTION_UNITS.index(name) for name in cfg.data.action_units]]
    known = ~np.isnan(units)
    for name, column in zip(cfg.data.action_units, known.T, strict=True):
        if not column.any():
            raise DataError(f"{store.path}: no face has a label of {name}; leave it out of data.action_units.")
    parts = split_of(store, cfg)
    labelled: Mask = np.asarray(known.any(1))
    train, valid, test = (rows[labelled[rows]] for rows in (parts.train, parts.valid, parts.test))
    if len(train) < 2 or len(valid) < 1:
        raise DataError(f"{store.path}: {len(train)} faces to train and {len(valid)} to validate on; more are needed.")
    names = sorted({name for name in store.subject[train] if name is not None})
    number = {name: k for k, name in enumerate(names)}
    subjects = torch.tensor([number.get(name, -1) for name in store.subject])
    if cfg.loss.identity_loss_lambda or cfg.loss.pairing == "other_subject":
        unknown = int((subjects[torch.from_numpy(train)] < 0).sum())
        if unknown or len(names) < 2:
            why = f"{unknown} training faces have no subject" if unknown else f"there is only the subject {names[0]}"
            raise DataError(f"{store.path}: {why}; identity_loss_lambda and pairing=other_subject need at least two.")
    active = classes_of(units[train], cfg.data.occurrence_threshold).sum(0)
    counts = dict(zip((*cfg.data.action_units, "neutral"), map(int, active), strict=True))
    tell_never_active([name for name in cfg.data.action_units if not counts[name]], store, cfg)
    report = {
        **parts.report,
        "labelled": {"train": len(train), "valid": len(valid), "test": len(test)},
        "active": counts,
    }
    targets = au_targets(torch.from_numpy(units), cfg.data.regress_au_intensities, cfg.data.occurrence_threshold)
    return Labels(train, valid, test, units, targets, subjects, len(names), report)


def tell_never_active(names: list[str], store: Store, cfg: Cfg) -> None:
    """One line on stderr on units that no training face shows; DataError where that is all of them."""
    if not names:
        return
    what = f"at intensity {cfg.data.occurrence_threshold:g} and more in no training face of {store.path}"
    remedy = "see mien prepare --au-scale for what its numbers mean"
    if len(names) == len(cfg.data.action_units):
        raise DataError(f"every action unit is {what}, so nothing can be learnt; {remedy}.")
    print(f"mien: {', '.join(names)}: {what}; such a unit trains to nothing; {remedy}.", file=sys.stderr)


def split_of(store: Store, cfg: Cfg) -> folds.Split:
    """Rows of train, valid and test."""
    seed, fraction = cfg.run.seed, cfg.data.valid_fraction
    if cfg.data.fold != "None":
        return unit_split(store, cfg.data.fold, seed=seed, fraction=fraction)
    if not cfg.data.shared_subjects:
        near = any(name is None for name in store.subject)  # near-duplicates stand for subjects where those are unknown
        parts = folds.strict(store, seed=seed, fraction=fraction, near=near)
        people = {name: store.subject[getattr(parts, name)] for name in ("train", "valid", "test")}
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
            where = f"{store.path}, {one} and {other}"
            refuse_leaks(
                people[one], people[other], where, "Split by subject, or set --data.shared_subjects True and say so."
            )
        return parts
    parts = folds.official(store)
    if len(parts.valid):
        return parts
    rest, fresh = folds.carve(parts.train, store.split, np.arange(len(store)), seed, fraction)
    return parts._replace(
        train=np.sort(rest), valid=np.sort(fresh), report={**parts.report, "validation": "carved by frame"}
    )


def make_momu(cfg: Cfg, labels: Labels) -> Momu | None:
    """Sampler over positions in `labels.train`; None without balancing."""
    if not cfg.data.balance_dataset_with_momu:
        return None
    classes = classes_of(labels.units[labels.train], cfg.data.occurrence_threshold)
    names = (*cfg.data.action_units, "neutral")
    return Momu(classes, cfg.data.epoch_size, cfg.data.sampling_size, cfg.run.seed, names)


def momu_ids(cfg: Cfg, path: Path, out: Path) -> None:
    """Write the ids of a first epoch under MOMU, in a random order, one a line, as the published train_ids.csv.

    Behind `mien audet momu`; the balance before and after is printed.
    """
    store = open_store(path)
    labels = labels_of(store, cfg)
    momu = make_momu(cfg, labels)
    if momu is None:
        raise UsageError(
            "the cfg does not balance: set --data.balance_dataset_with_momu True, epoch_size and sampling_size."
        )
    drawn = momu.order
    write_atomic(out, "".join(f"{store.ids[row]}\n" for row in labels.train[drawn]))
    before, after = momu.classes.mean(0), momu.classes[drawn].mean(0)
    for name, one, other in zip((*cfg.data.action_units, "neutral"), before, after, strict=True):
        print(f"{name:<8} {one:6.1%} -> {other:6.1%}")
    print(f"{out}: {len(drawn)} ids, {len(np.unique(drawn))} distinct")
