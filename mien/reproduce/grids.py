"""Each table as a list of entries: what is trained, which map is scored, what was published. Data, and how it becomes recipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mien.config import Recipe, load_recipe, with_settings
from mien.errors import UsageError, unknown_name
from mien.reproduce.methods import LAMBDA_ACCURACY, LAYER_ABLATION, METHODS, RAFDB, Settings

UNGUIDED, GUIDED = "without AUs", "with AUs"


class Entry(NamedTuple):
    """One number of a table for each score: a training, and the maps of it that are scored."""

    row: str
    """Key of the row, as `--only` takes it."""
    title: str
    column: str
    """UNGUIDED or GUIDED in a table that has both; empty in tables with one training a row."""
    training: str
    """First part of the run folder's name."""
    settings: Settings
    """What makes the entry; the command line cannot change it."""
    explainer: str | None = "cam"
    """Map that CAM-COS scores; None where the net has no map of a class."""
    layer: int = -1
    """Layer that ATT-COS scores, from 1; -1 is the last."""
    against: tuple[str, str] | None = None
    """Row and column of the entry that this one is compared with, seed by seed."""
    published: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Dataset -> score -> value."""
    small: Settings = MappingProxyType({})
    """Settings at the small scale, in place of those of the same name in `settings`."""


def methods_table() -> list[Entry]:
    """Tables 1 and 2: every method without and with action units."""
    entries = []
    for row, method in METHODS.items():
        for side, column in enumerate((UNGUIDED, GUIDED)):
            guidance = {"guidance.layers": [method.layer]} if side else {"guidance.weight": 0.0}
            published = {
                dataset: {name: pair[side] for name, pair in numbers._asdict().items() if pair is not None}
                for dataset, numbers in method.published.items()
            }
            entries.append(
                Entry(
                    row, method.title, column, method.training, {**method.settings, **guidance}, method.explainer,
                    method.layer, (row, UNGUIDED) if side else None, published, method.small,
                )
            )  # fmt: skip
    return entries


def lambda_table() -> list[Entry]:
    """The weight of guidance, lambda, with CAM."""
    entries = []
    for value in (0, 0.01, 1, 2, 4, 7, 10, 15, 20):
        published = {RAFDB: {"accuracy": LAMBDA_ACCURACY[value]}} if value in LAMBDA_ACCURACY else {}
        settings = {**METHODS["cam"].settings, "guidance.weight": float(value)}
        against = ("0", "") if value else None
        entries.append(Entry(f"{value:g}", f"λ = {value:g}", "", "cam", settings, against=against, published=published))
    return entries


def layers_table() -> list[Entry]:
    """Which layers are guided, with CAM; ATT-COS is that of the last layer throughout."""
    entries = []
    for row, (layers, (accuracy, cam_cos)) in LAYER_ABLATION.items():
        guidance = {"guidance.layers": layers} if layers else {"guidance.weight": 0.0}
        settings = {**METHODS["cam"].settings, **guidance}
        title = {"none": "no guidance", "all": "all layers"}.get(row, f"layer{'s' * (len(layers) > 1)} {row}")
        against = ("none", "") if layers else None
        published = {RAFDB: {"accuracy": accuracy, "cam_cos": cam_cos}}
        entries.append(Entry(row, title, "", "cam", settings, against=against, published=published))
    return entries


PAL: Settings = {
    "weight": 1.0, "cue": "landmarks", "attribution": "grad_input", "similarity": "pearson", "channels": "mean",
}  # fmt: skip
"""Privileged attribution loss in the form that is free of offset, of the label's logit, mean of the channels."""


def pal_table() -> list[Entry]:
    """Privileged attribution loss: channel strategies, gradient alone, AU alignment, both, and controls of the prior."""
    pal: dict[str, Settings] = {"ce": {"guidance.weight": 0.0}, "au": {"guidance.cue": "au"}}
    pal |= {
        "pal_mean": _section("guidance", PAL),
        "pal_all": _section("guidance", {**PAL, "channels": "all_joint"}),
        "pal_each": _section("guidance", {**PAL, "channels": "all_per_channel"}),
        "pal_half": _section("guidance", {**PAL, "channels": "first_half"}),
        "pal_sum": _section("guidance", {**PAL, "target": "sum"}),
        "grad": _section("guidance", {**PAL, "attribution": "grad", "layers": [-2]}),
        "au_pal": {"guidance.cue": "au", **_section("second", PAL)},
        **{f"prior_{name}": {**_section("guidance", PAL), "cue.control": name} for name in PRIORS},
    }
    return [
        Entry(
            row, PAL_TITLES[row], "", row if row == "ce" else f"pal-{row}", {"cue.kind": "landmarks", **settings},
            against=None if row == "ce" else ("ce", ""),
        )
        for row, settings in pal.items()
    ]  # fmt: skip


PRIORS = {
    "mean": "the mean heatmap of the training faces",
    "shuffled": "another face's heatmap",
    "centre": "a blob in the middle",
    "inverted": "the inverted heatmap",
}
"""Control -> what takes the place of the heatmap in the loss; scores are against the real one."""
PAL_TITLES = {
    "ce": "cross-entropy alone",
    "au": "AU maps, activation",
    "pal_mean": "PAL, mean of the channels",
    "pal_all": "PAL, all channels jointly",
    "pal_each": "PAL, each channel",
    "pal_half": "PAL, half of the channels",
    "pal_sum": "PAL of the sum of logits",
    "grad": "gradient alone, last layer but one",
    "au_pal": "AU maps and PAL",
    **{f"prior_{name}": f"PAL with {what}" for name, what in PRIORS.items()},
}


def controls_table() -> list[Entry]:
    """Does it matter where the cue points? Guided by AU maps, landmarks or both, and by cues that are wrong on purpose."""
    cam = METHODS["cam"].settings
    rows: dict[str, Settings] = {
        "none": {"guidance.weight": 0.0},
        "au": {},
        "pal": {"cue.kind": "landmarks", **_section("guidance", PAL)},
        "au_pal": {"guidance.cue": "au", **_section("second", PAL)},
        **{name: {"cue.control": name} for name in TRAINED_CONTROLS},
    }
    titles = {"none": "no guidance", "au": "AU maps", "pal": "PAL", "au_pal": "AU maps and PAL", **TRAINED_CONTROLS}
    return [
        Entry(
            row, titles[row], "", SHARED_TRAININGS.get(row, f"controls-{row}"), {**cam, **settings},
            against=None if row == "none" else ("none", ""),
        )
        for row, settings in rows.items()
    ]  # fmt: skip


SHARED_TRAININGS = {"none": "cam", "au": "cam", "pal": "pal-pal_mean"}
"""Row of `controls` -> training of another table that is the same."""
TRAINED_CONTROLS = {
    "class_mean": "the mean AU map of the class",
    "same_class": "another face's AU map, same class",
    "shuffled": "another face's AU map, any class",
    "other_class": "another class's AU map, same face",
    "mean": "the mean AU map of all faces",
    "inverted": "the inverted AU map",
}
"""Control -> what takes the place of the AU map in the loss; scores are against the real one."""


def _section(name: str, settings: Settings) -> Settings:
    return {f"{name}.{key}": value for key, value in settings.items()}


TABLES: dict[str, list[Entry]] = {
    "methods": methods_table(), "lambda": lambda_table(), "layers": layers_table(), "pal": pal_table(), "controls": controls_table(),
}  # fmt: skip
"""Name of a table -> its entries."""

PUBLISHED_WEIGHT = {RAFDB: 4.0, "affectnet": 9.0}
"""lambda: affectnet as in the published command; rafdb inferred from the ablation, whose peak is the table's number."""
USUAL_WEIGHT = 4.0
"""lambda for other datasets."""

SCALES: dict[str, Settings] = {
    "paper": {
        "augment.rotation": 6.0, "augment.translate": 0.05, "augment.scale": 0.06, "augment.jitter": 0.4,
        "augment.grayscale": 0.2, "augment.erase": 0.5,
        "model.backbone": "resnet50.tv_in1k", "model.size": 224, "model.output_stride": 8, "model.pretrained": True,
        "optim.lr": 0.002, "optim.epochs": 20, "optim.batch": 224, "optim.schedule": "step",
        "run.workers": 8,
    },
    "small": {
        "augment.rotation": 6.0, "augment.translate": 0.05, "augment.scale": 0.06, "augment.jitter": 0.15,
        "model.backbone": "resnet10t", "model.size": 48, "model.stem_pool": False, "model.output_stride": 16,
        "model.channels": [32, 64, 128, 128], "model.backbone_options": {"zero_init_last": False},
        "optim.name": "adamw", "optim.lr": 1.5e-3, "optim.weight_decay": 0.05, "optim.batch": 12,
    },
}  # fmt: skip
"""Scale -> settings of every entry, which entries and the command line change."""
PROTOCOLS: dict[str, Settings] = {
    "strict": {"data.protocol": "strict"},
    "paper": {"data.protocol": "paper", "cue.codebook": "paper"},
}
"""strict: an own validation split and the corrected codebook; paper: test faces select the epoch, codebook as published."""
WILDCAT_AS_CODED = {"alpha": 0.0}
"""Under protocol paper: the published code computes the term of the lowest pixels (kmin) and loses it."""
SEED_PLACE = "{seed}"
"""In `--model.initial`: the seed of the cell, so that every seed goes on from a net of its own."""
SMALL_BUDGET, SMALL_EPOCHS = 12_000, 12
"""At the small scale a training sees about this many faces, in this many epochs at most."""


def entries_of(table: str, only: Sequence[str]) -> list[Entry]:
    """Entries of a table, of the named rows only, and of those that they are compared with."""
    if table not in TABLES:
        raise unknown_name("table", table, TABLES)
    entries = TABLES[table]
    rows = list(dict.fromkeys(entry.row for entry in entries))
    for name in only:
        if name not in rows:
            raise unknown_name(f"row of table {table}", name, rows)
    needed = set(only or rows)
    needed |= {entry.against[0] for entry in entries if entry.row in needed and entry.against}
    return [entry for entry in entries if entry.row in needed]


def shared_recipe(
    scale: str, protocol: str, store: Path, dataset: str, faces: int, overrides: Sequence[str] = ()
) -> Recipe:
    """What all entries share: scale, protocol, the dataset's lambda, and over them the command line's overrides.

    `faces` are those that can be trained on.
    """
    settings = {"guidance.weight": PUBLISHED_WEIGHT.get(dataset, USUAL_WEIGHT), **SCALES[scale], **PROTOCOLS[protocol]}
    if scale == "small":
        settings["optim.epochs"] = max(1, min(SMALL_EPOCHS, round(SMALL_BUDGET / max(1, faces))))
    return load_recipe(None, [*words({**settings, "data.store": str(store)}), *overrides])


def refuse_fixed(table: str, entries: Sequence[Entry], overrides: Sequence[str]) -> None:
    """UsageError for an override that every entry sets itself, and that would hence do nothing; a line on stderr for one
    that reaches some rows only. Settings of guidance count where there is guidance.
    """
    for word in overrides:
        key = word[2:].split("=")[0]
        if not word.startswith("--"):
            continue
        open_to = [entry for entry in entries if reaches(entry, key)]
        if not open_to or key in ("run.seed", "data.store", "data.protocol"):
            raise UsageError(f"{key} is set by the table '{table}' or by an option of this command; leave it out.")
        own = list(dict.fromkeys(entry.row for entry in entries if entry not in open_to and guided(entry)))
        if own and key.split(".")[0] in ("guidance", "second"):
            print(f"mien: --{key} does not reach {', '.join(own)}, which set it themselves.", file=sys.stderr)


def guided(entry: Entry) -> bool:
    """Whether the entry's training has guidance."""
    return entry.settings.get("guidance.weight") != 0


def reaches(entry: Entry, key: str) -> bool:
    """Whether an override of a key changes the entry's training."""
    section = key.split(".")[0]
    if section == "guidance" and not guided(entry):
        return False
    return key not in entry.settings and key not in entry.small


def recipe_of(entry: Entry, shared: Recipe, scale: str, seed: int) -> Recipe:
    """Recipe of one cell: what all share, and over it what makes the entry."""
    own = {**entry.settings, **(entry.small if scale == "small" else {}), "run.seed": seed}
    if shared.model.initial is not None and SEED_PLACE in str(shared.model.initial):
        own["model.initial"] = Path(str(shared.model.initial).replace(SEED_PLACE, str(seed)))
    if shared.data.protocol == "paper" and own.get("model.head") == "wildcat":
        own["model.head_options"] = WILDCAT_AS_CODED
    return with_settings(shared, own)


def words(settings: Settings) -> Iterator[str]:
    """Settings as words of a command line."""
    for key, value in settings.items():
        yield from (f"--{key}", value if isinstance(value, str) else json.dumps(value))


def cell_name(entry: Entry, recipe: Recipe) -> str:
    """Run folder of a cell: training, lambda, guided layers, seed; cells of equal settings share it, also across tables."""
    guidance: Any = recipe.guidance
    layers = "+".join("last" if layer == -1 else str(layer) for layer in guidance.layers)
    name = f"{entry.training}-lambda{guidance.weight:g}" + (f"-{layers}" if guidance.weight else "")
    return f"{name}-seed{recipe.run.seed}"
