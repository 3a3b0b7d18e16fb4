"""Fit and measure the action units of mien.faces.units.

    python tools/unit_faces.py --out FACES
    MIEN_SHARED_DATA=FOLDER python tools/units.py fit --faces FACES     # unit_weights.npz; from, gain and cut of units.json
    MIEN_SHARED_DATA=FOLDER python tools/units.py table --faces FACES [--run RUN] [--write]

`table` prints the tables of docs/photo-units.md, on synthetic faces of people that `fit` never saw, on the portraits of
FOLDER/faces (neutral and smiling) and on FOLDER/muxspace_dev.npz (photos with expressions), where that is there. --write puts into
units.json what is proven by RULES; --run adds the AUC of a run of mien audet train on the same synthetic faces. What the nets find in
photos is kept in FACES/photos.npz.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.cues.codebook import load_codebook
from mien.faces import units as u
from mien.faces.blendshapes import BLENDSHAPES
from mien.faces.detect import open_provider
from mien.faces.pictures import load_picture
from mien.metrics.action_units import auc, icc_3_1, pearson
from mien.synthetic.sample import UNIT_ACTIONS

PACKAGE = Path(u.__file__).parent
RIDGE = 300.0
"""Penalty on standardised weights."""
ABSENT, THERE, PRESENT = 0.5, 1.0, 2.0
"""Intensities under which a unit is absent, from which it is there, and from which it counts as present for an AUC."""
FALSE_ALARMS, CALM, RIGHT = 0.01, 0.03, 0.85
"""The cut is the least intensity that at most so many absent sides of training people pass, that at most so many sides of every
other neutral portrait pass, and of those over it at least this share is there."""
RULES = {"auc": 0.85, "precision": 0.7, "recall": 0.15, "neutral": 0.07, "smiling": 0.1, "photos": 0.65}
"""What a proven unit reaches: docs/photo-units.md. neutral and smiling (of units that are no part of a smile): at most; the others:
at least, photos only where there are some."""
SMILE = ("AU6", "AU12", "AU14", "AU25", "AU26")
"""Units that a smile may show."""
LABELS = {
    "happy": "Happiness",
    "surprise": "Surprise",
    "sad": "Sadness",
    "angry": "Anger",
    "fear": "Fear",
    "disgust": "Disgust",
}
LEAST_PHOTOS = 50
"""Photos of an expression from which it is scored."""
AU27_IN_AU26 = UNIT_ACTIONS["AU27"]["jawOpen"] / UNIT_ACTIONS["AU26"]["jawOpen"]
APART = 1.5
"""Difference of the sides from which it is asked which is stronger."""


class Faces(NamedTuple):
    """Synthetic faces as the nets see them."""

    blendshapes: np.ndarray
    """(N, 52)."""
    truth: np.ndarray
    """(N, C) over unit_columns()."""
    pose: np.ndarray
    light: np.ndarray
    subject: np.ndarray
    row: np.ndarray
    mirror: np.ndarray

    def part(self, rows: np.ndarray) -> Faces:
        """Some of them."""
        return Faces(*(values[rows] for values in self))


def mirrored(name: str) -> str:
    """Column of the other side."""
    if name[-2:] in ("_L", "_R"):
        return name[:-1] + {"L": "R", "R": "L"}[name[-1]]
    return {"AU61": "AU62", "AU62": "AU61"}.get(name, name)


def read_faces(folder: Path, split: str) -> Faces:
    """Faces of a split; in mirror images the sides of the truth are exchanged. A unit without sides is their mean.

    A jaw that drops as far as AU27 has dropped as far as AU26, which is what AU26 is scored on.
    """
    kept = np.load(folder / f"{split}.npz")
    names = kept["columns"].tolist()
    truth, mirror = kept["truth"].copy(), kept["mirror"]
    truth[mirror] = truth[mirror][:, [names.index(mirrored(name)) for name in names]]
    parts = [[name] if name in names else [f"{name}_L", f"{name}_R"] for name in u.unit_columns()]
    jaw = [names.index(name) for name in ("AU26", "AU27")]
    truth[:, jaw[0]] = np.clip(truth[:, jaw] @ [1, AU27_IN_AU26], 0, 5)
    wanted = np.stack([truth[:, [names.index(name) for name in part]].mean(1) for part in parts], 1)
    return Faces(*(wanted if key == "truth" else kept[key] for key in Faces._fields))


def columns_of(unit: u.Unit) -> list[int]:
    """Places of a unit's columns."""
    return [u.unit_columns().index(column) for column in unit.columns]


def fitted(faces: Faces) -> u.Weights:
    """Ridge regression of intensities on standardised logits, scaled so that each spreads as much as the truth does."""
    values = u.logits(faces.blendshapes)
    mean, spread = values.mean(0), values.std(0) + 1e-6
    standard, centre = (values - mean) / spread, faces.truth.mean(0)
    square = standard.T @ standard + RIDGE * np.eye(len(BLENDSHAPES))
    inner = np.linalg.solve(square, standard.T @ (faces.truth - centre))
    inner *= faces.truth.std(0) / np.maximum((standard @ inner).std(0), 1e-6)
    matrix = inner / spread[:, None]
    return u.Weights(matrix, centre - mean @ matrix, np.zeros(len(centre)))


def write_units(changes: dict[str, dict[str, Any]]) -> None:
    """Put measured values into units.json, one unit a line."""
    path = PACKAGE / "units.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    for name, change in changes.items():
        kept["units"][name].update(change)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in kept["units"].items())
    path.write_text(f'{{\n "about": {json.dumps(kept["about"])},\n "units": {{\n{rows}\n }}\n}}\n', encoding="utf-8")


def cut_of(value: np.ndarray, truth: np.ndarray, calm: np.ndarray) -> float:
    """Least intensity from 1 to 5 that keeps FALSE_ALARMS, CALM and RIGHT; 5 where none does."""
    for cut in np.arange(1.0, 5.0, 0.1):
        over = value >= cut
        quiet = (value[truth < ABSENT] >= cut).mean() <= FALSE_ALARMS and (calm >= cut).mean() <= CALM
        if quiet and over.any() and (truth[over] >= THERE).mean() >= RIGHT:
            return round(float(cut), 1)
    return 5.0


def fit(folder: Path, data: Path) -> None:
    """Fit the regressor on all training people; choose sources and cuts on a fifth of them that a first fit left out."""
    faces = read_faces(folder, "train")
    kept = faces.subject % 5 > 0
    first, held, calm = fitted(faces.part(kept)), faces.part(~kept), photos(folder, data)["portraits neutral"][::2]
    changes = {}
    for unit in u.read_units():
        at, ways = columns_of(unit), dict[str, tuple[np.ndarray, np.ndarray]]()
        truth = held.truth[:, at].ravel()
        ways["regressor"] = tuple(  # type: ignore[assignment]
            (u.logits(part) @ first.matrix + first.bias)[:, at].ravel() for part in (held.blendshapes, calm)
        )
        index = [[BLENDSHAPES.index(name) for name in names] for names in unit.blendshapes]
        raw = [np.stack([part[:, k].mean(1) for k in index], 1).ravel() for part in (held.blendshapes, calm)]
        gain = float(truth.std() / max(raw[0].std(), 1e-6))
        ways["blendshapes"] = (gain * raw[0], gain * raw[1])
        order = {name: area(value, truth) for name, (value, _) in ways.items()}
        best = max(order, key=lambda name: order[name])
        cut = cut_of(ways[best][0], truth, ways[best][1])
        changes[unit.name] = {"from": best, "gain": round(gain, 2), "cut": cut}
        print(unit.name, {name: round(value, 3) for name, value in order.items()}, changes[unit.name])
    write_units(changes)
    u.read_units.cache_clear()
    whole = fitted(faces)
    kept_as = {"matrix": whole.matrix.astype(np.float32), "bias": whole.bias.astype(np.float32)}
    np.savez(PACKAGE / "unit_weights.npz", **kept_as, rest=np.zeros(len(whole.bias), np.float32))
    u.unit_weights.cache_clear()
    rest = np.median(u.unit_intensities(calm), axis=0).astype(np.float32)
    np.savez(PACKAGE / "unit_weights.npz", **kept_as, rest=rest)


def area(scores: np.ndarray, truth: np.ndarray) -> float:
    """AUC of present against absent intensities, of any shape; NaN with fewer than ten of either."""
    sure = (truth < ABSENT) | (truth >= PRESENT)
    yes = truth[sure] >= PRESENT
    if min(yes.sum(), (~yes).sum()) < 10:
        return float("nan")
    return float(auc(scores[sure][:, None], yes[:, None].astype(float))[0])


def between(more: np.ndarray, less: np.ndarray) -> float:
    """AUC of the rows of `more` (N, c) above those of `less` (M, c), by their means."""
    values = np.concatenate([more.mean(1), less.mean(1)])
    return float(auc(values[:, None], np.repeat([1.0, 0.0], [len(more), len(less)])[:, None])[0])


def photos(folder: Path, data: Path) -> dict[str, np.ndarray]:
    """(N, 52) blendshapes of portraits (neutral, smiling; people in the same order) and of photos by expression."""
    file = folder / "photos.npz"
    if not file.is_file():
        provider, found = open_provider("mediapipe"), dict[str, list[np.ndarray]]()
        for row in csv.DictReader((data / "faces" / "index.csv").open(encoding="utf-8")):
            if row["expression"] in ("neutral", "smiling"):
                faces = provider(load_picture(data / "faces" / row["file"]))
                found.setdefault(f"portraits {row['expression']}", []).append(faces[0].blendshapes)
        if (data / "muxspace_dev.npz").is_file():
            with np.load(data / "muxspace_dev.npz") as kept:
                for image, label in zip(kept["images"], kept["label_names"][kept["label"]], strict=True):
                    faces = provider(np.ascontiguousarray(image))
                    if faces:
                        found.setdefault(f"photos {label}", []).append(faces[0].blendshapes)
        np.savez(file, **{name: np.stack(rows) for name, rows in found.items()})
    return dict(np.load(file))


def best_expression(unit: str, seen: dict[str, np.ndarray], at: list[int]) -> tuple[float, str]:
    """Largest AUC between photos of an expression that has the unit in the codebook and neutral ones; NaN without photos."""
    book, best = load_codebook("corrected").expressions, (float("nan"), "-")
    for label, expression in LABELS.items():
        shown = seen.get(f"photos {label}", np.zeros((0, 1)))
        if len(shown) >= LEAST_PHOTOS and unit in book[expression]:
            score = between(shown[:, at], seen["photos neutral"][:, at])
            best = (score, expression) if not score <= best[0] else best
    return best


def row_of(
    unit: u.Unit, faces: Faces, found: np.ndarray, rest: np.ndarray, seen: dict[str, np.ndarray]
) -> dict[str, Any]:
    """All numbers of one unit; `found` are intensities of `faces`, `rest` (N, C) those of the same people at rest."""
    at = columns_of(unit)
    truth, value = faces.truth[:, at], found[:, at]
    turned = np.abs(faces.pose[:, :2]).max(1) > 15
    hard = (np.abs(faces.light[:, 0]) > 40) | (faces.light[:, 2] > 0.65)
    named, there, kept = value >= unit.cut, truth >= PRESENT, np.clip(value, 0, 5)
    row: dict[str, Any] = {"present": int(there.sum()), "AUC": area(value, truth)}
    row |= {"frontal": area(value[~turned], truth[~turned]), "turned": area(value[turned], truth[turned])}
    row |= {"hard light": area(value[hard], truth[hard]), "less neutral": area(value - rest[:, at], truth)}
    row |= {"r": pearson(kept.ravel(), truth.ravel()), "ICC": icc_3_1(np.stack([kept.ravel(), truth.ravel()], 1))}
    if unit.sides:
        apart = np.abs(truth[:, 0] - truth[:, 1]) >= APART
        row["side"] = float(((value[:, 0] > value[:, 1]) == (truth[:, 0] > truth[:, 1]))[apart].mean())
    row |= {"cut": unit.cut, "recall": float(named[there].mean())}
    row["precision"] = float((truth[named] >= THERE).mean()) if named.any() else 0.0
    calm, smile = seen["portraits neutral"][:, at], seen["portraits smiling"][:, at]
    row["neutral"] = float((calm[1::2] >= unit.cut).any(1).mean())
    row |= {"smiling": float((smile[1::2] >= unit.cut).any(1).mean()), "smile AUC": between(smile, calm)}
    row["photos"], row["expression"] = best_expression(unit.name, seen, at)
    kinds = {"AUC": "auc", "precision": "precision", "recall": "recall", "photos": "photos"}
    enough = all(not row[name] < RULES[rule] for name, rule in kinds.items())
    calm_enough = unit.name in SMILE or row["smiling"] <= RULES["smiling"]
    row["proven"] = bool(enough and calm_enough and row["neutral"] <= RULES["neutral"])
    return row


def at_rest(folder: Path, faces: Faces) -> np.ndarray:
    """(N, C) intensities of each face's person at rest; the mean of all where that picture shows no face."""
    calm = read_faces(folder, "neutral")
    found = u.unit_intensities(calm.blendshapes)
    rows = {(int(p), bool(m)): found[k] for k, (p, m) in enumerate(zip(calm.subject, calm.mirror, strict=True))}
    pairs = zip(faces.subject.tolist(), faces.mirror.tolist(), strict=True)
    return np.stack([rows.get(pair, found.mean(0)) for pair in pairs])


def run_scores(run: Path, folder: Path, faces: Faces) -> dict[str, float]:
    """AUC of each unit of a run of mien audet train on the same synthetic faces; a unit's truth is the mean of its sides."""
    from mien.audet.photos import open_reader, unit_strengths
    from mien.data.framing import frame_face

    reader, provider = open_reader(run), open_provider("mediapipe")
    images, strengths, kept = np.load(folder / "test.npy", mmap_mode="r"), [], []
    for index in faces.row:
        image = np.ascontiguousarray(images[index])
        found = provider(image)
        kept.append(bool(found))
        if found:
            face = frame_face(image, found[0].landmarks, found[0].box, reader.framing, 32)
            strengths.append(unit_strengths(reader, [face])[0])
    values, truth, names = np.stack(strengths), faces.truth[kept], list(reader.net.action_units)
    return {
        unit.name: area(values[:, names.index(unit.name)], truth[:, columns_of(unit)].mean(1))
        for unit in u.read_units()
        if unit.name in names
    }


def shown(value: Any) -> str:
    """A cell."""
    if isinstance(value, str | bool | int):
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return "-" if np.isnan(value) else f"{value:.2f}"


def table(folder: Path, data: Path, run: Path | None, write: bool) -> None:
    """Print the tables as Markdown."""
    everything = read_faces(folder, "test")
    faces = everything.part(~everything.mirror)
    found, rest = u.unit_intensities(faces.blendshapes), at_rest(folder, faces)
    seen = {name: u.unit_intensities(shapes) for name, shapes in photos(folder, data).items()}
    rows = {unit.name: row_of(unit, faces, found, rest, seen) for unit in u.read_units()}
    for name, score in ({} if run is None else run_scores(run, folder, faces)).items():
        rows[name]["run"] = score
    synthetic = ("present", "AUC", "frontal", "turned", "hard light", "less neutral", "r", "ICC", "side")
    told = ("cut", "recall", "precision", "neutral", "smiling", "smile AUC", "photos", "expression", "proven")
    for heads in ((*synthetic, *(("run",) if run is not None else ())), told):
        print(f"| unit | from | {' | '.join(heads)} |\n{'|---' * (len(heads) + 2)}|")
        for unit in u.read_units():
            cells = [shown(rows[unit.name].get(head, float("nan"))) for head in heads]
            print(f"| {unit.name} | {unit.source} | {' | '.join(cells)} |")
    calm, smile = seen["portraits neutral"], seen["portraits smiling"]
    spoken = [unit for unit in u.read_units() if rows[unit.name]["proven"]]
    for unit in (unit for unit in spoken if unit.name in ("AU12", "AU25")):
        at = columns_of(unit)
        usual = u.unit_weights().rest[at]
        over, less = smile[:, at] >= unit.cut, smile[:, at] - calm[:, at] + usual >= unit.cut
        print(
            f"{unit.name} on smiling portraits: {over.any(1).mean():.2f}, less the own neutral face {less.any(1).mean():.2f}"
        )
    named = [(found[:, at] >= unit.cut, faces.truth[:, at]) for unit in spoken for at in [columns_of(unit)]]
    count = sum(int(over.sum()) for over, _ in named)
    right = sum(int((truth[over] >= THERE).sum()) for over, truth in named)
    print(
        f"proven units named on {len(found)} synthetic faces: {count} sides, {right / max(count, 1):.2f} of them there"
    )
    still = [unit for unit in spoken if unit.name not in ("AU45", "AU61", "AU62", "AU63", "AU64")]
    any_named = np.stack([(calm[1::2][:, columns_of(unit)] >= unit.cut).any(1) for unit in still]).any(0).mean()
    print(f"neutral portraits, every other one, on which any of {len(still)} is named: {any_named:.2f}")
    if write:
        write_units({name: {"proven": row["proven"]} for name, row in rows.items()})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("fit", "table"))
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    data = Path(os.environ["MIEN_SHARED_DATA"])
    if given.verb == "fit":
        fit(given.faces, data)
    else:
        table(given.faces, data, given.run, given.write)


if __name__ == "__main__":
    main()
