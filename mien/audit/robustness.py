"""When does it break? Accuracy, confidence and map under fifteen corruptions at five strengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mien.audit.corruptions import CORRUPTIONS, NEED_LANDMARKS, STRENGTHS, Faces, corrupt, faces_of, move_of, moved
from mien.audit.sample import Sample
from mien.audit.table import Drawing, Line, Part, Table, numbers, p_words, percent, row, within
from mien.data.transforms import as_pictures
from mien.maps import is_flat, pearson
from mien.metrics.intervals import bootstrap_mean, paired_bootstrap
from mien.schema import ByteArray, FloatArray

TITLE = "When does it break?"
BATCH = 64
MAPS = (
    "Of the class that the clean face was given; mean over five strengths. After a turn or another crop the clean map is "
    "moved likewise."
)
RELATIVE = (
    "What a corruption adds to the error, over what it adds to that of the baseline; below 1 it loses less. A model that is "
    "wrong anyway has little to lose: read it beside the clean accuracy."
)

Answer = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Pictures (B, 3, H, W) in [0, 1] and the classes (B,) whose map is asked for, or None -> probabilities (B, K), maps or None."""
Array = npt.NDArray[np.float64]


class Broken(NamedTuple):
    """What the corruptions did; C corruptions, S strengths, N faces."""

    names: tuple[str, ...]
    clean: FloatArray
    """(N, K) probabilities of the clean faces."""
    answers: FloatArray
    """(C, S, N, K); NaN for faces that a corruption needs landmarks of and that have none."""
    alike: FloatArray
    """(C, S, N) Pearson correlation of the map with that of the clean face, NaN where there is none or it is flat."""


@torch.no_grad()
def broken(
    sample: Sample, pictures: ByteArray, answer: Answer, mapped: int = 0, seed: int = 0, late: Callable[[], bool] = bool
) -> Broken:
    """Answers and maps under every corruption; maps of the first `mapped` faces.

    `pictures` (N, H, W, 3) of the sample, `late` says when to stop: corruptions that were not begun are left out.
    """
    n, names = len(pictures), tuple(CORRUPTIONS)
    clean, maps = _clean(pictures, answer, mapped)
    shape = (len(names), STRENGTHS, n)
    answers, alike = np.full((*shape, clean.shape[1]), np.nan, np.float32), np.full(shape, np.nan, np.float32)
    done = 0
    for c, name in enumerate(names):
        if late():
            break
        for start in range(0, n, BATCH):
            part = np.arange(start, min(n, start + BATCH))
            faces = _faces(sample, pictures, part, seed)
            usable = np.asarray(np.isfinite(sample.landmarks[part]).all((1, 2)) | (name not in NEED_LANDMARKS))
            own = torch.from_numpy(clean[part].argmax(1)) if start < mapped else None
            for s in range(STRENGTHS):
                found, changed = answer(corrupt(name, faces, s + 1), own)
                answers[c, s, part] = np.where(usable[:, None], found.float().cpu().numpy(), np.nan)
                if changed is not None and own is not None:
                    kept = maps[start : start + len(part)]
                    theta = move_of(name, faces, s + 1)
                    kept = kept if theta is None else moved(kept, theta.to(kept), "zeros")
                    values = likeness(kept, changed.float().cpu()).numpy()
                    alike[c, s, part] = np.where(usable & (part < mapped), values, np.nan)
        done = c + 1
    return Broken(names[:done], clean, answers[:done], alike[:done])


def likeness(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of maps (B, 1, h, w), NaN where either is flat."""
    return pearson(first, second).masked_fill(is_flat(first) | is_flat(second), torch.nan)


def _faces(sample: Sample, pictures: ByteArray, part: npt.NDArray[np.int64], seed: int) -> Faces:
    images = as_pictures(pictures[part])
    return faces_of(images, torch.from_numpy(sample.landmarks[part]), sample.rows[part], seed)


def _clean(pictures: ByteArray, answer: Answer, mapped: int) -> tuple[FloatArray, Tensor]:
    """Probabilities of all faces, and the maps of the first `mapped` for the predicted class."""
    every, maps = [], []
    for start in range(0, len(pictures), BATCH):
        images = as_pictures(pictures[start : start + BATCH])
        found, _ = answer(images, None)
        every.append(found.float().cpu())
        if start < mapped:
            own = answer(images, found.argmax(1))[1]
            if own is not None:
                maps.append(own.float().cpu())
    empty = torch.zeros(0, 1, 1, 1)
    return torch.cat(every).numpy(), torch.cat(maps) if maps else empty


def robustness(sample: Sample, found: Broken, baseline: Broken | None = None, seed: int = 0, name: str = "") -> Part:
    """Tables of what `broken` found; `baseline` of another model (called `name`) on the same corrupted faces."""
    if not found.names:
        return Part("corruptions", TITLE, cannot=("The time was over before any corruption was tried.",))
    tables = [accuracy_table(sample, found, seed), strength_table(found, sample)]
    tables += [confidence_table(sample, found, seed)]
    if np.isfinite(found.alike).any():
        tables += [map_table(found, sample, seed)]
    cannot = _cannot(sample, found)
    if baseline is not None:
        tables += [relative_table(sample, found, baseline, name)]
    else:
        cannot.append("No baseline was named (--baseline): no relative mCE.")
    drawings = (curves(sample, found),) + ((map_curves(found),) if np.isfinite(found.alike).any() else ())
    return Part("corruptions", TITLE, tuple(tables), drawings, sentences(tables, sample, found), tuple(cannot))


def errors(sample: Sample, found: Broken) -> Array:
    """(C, S, N) 1 wrong, 0 right, NaN not tried."""
    wrong = (np.nan_to_num(found.answers).argmax(3) != sample.labels).astype(np.float64)
    return np.where(np.isfinite(found.answers).all(3), wrong, np.nan)


def accuracy_table(sample: Sample, found: Broken, seed: int) -> Table:
    """Mean accuracy over the strengths, beside the clean accuracy; the corruption that costs most first."""
    wrong, rows = errors(sample, found), []
    clean = (found.clean.argmax(1) == sample.labels).astype(np.float64)
    for c, name in enumerate(found.names):
        known = np.isfinite(wrong[c]).all(0)
        if known.any():
            people = None if sample.people is None else sample.people[known]
            mean = 1 - wrong[c][:, known].mean(0)
            test = paired_bootstrap(clean[known], mean, people, seed=seed, draws=500)
            note = f"{100 * test.difference:+.1f} points, {p_words(test.p)}"
            average = bootstrap_mean(mean, people, seed=seed, draws=500)
            rows.append(within(row(name, average, int(known.sum()), "higher", clean[known].mean(), note), 0, 1))
    rows.sort(key=lambda one: one.value if one.value is not None else 2.0)
    return Table("accuracy", "Accuracy under each corruption, mean over five strengths", tuple(rows),
                 "the same faces, clean", "p of the paired difference over people, not corrected.", "share")  # fmt: skip


def strength_table(found: Broken, sample: Sample) -> Table:
    """Accuracy at every strength, one row each."""
    wrong = errors(sample, found)
    rows = [
        row(f"{name}, strength {s + 1}", 1 - np.nanmean(wrong[c, s]), int(np.isfinite(wrong[c, s]).sum()), "higher")
        for c, name in enumerate(found.names)
        for s in range(STRENGTHS)
        if np.isfinite(wrong[c, s]).any()
    ]
    return Table("strengths", "Accuracy at each strength", tuple(rows), unit="share")


def confidence_table(sample: Sample, found: Broken, seed: int) -> Table:
    """Confidence minus accuracy: whether it knows that it cannot see."""
    clean = float(found.clean.max(1).mean() - (found.clean.argmax(1) == sample.labels).mean())
    wrong, rows = errors(sample, found), []
    for c, name in enumerate(found.names):
        known = np.isfinite(wrong[c]).all(0)
        if known.any():
            top = found.answers[c][:, known].max(2)
            people = None if sample.people is None else sample.people[known]
            over = bootstrap_mean((top - (1 - wrong[c][:, known])).mean(0), people, seed=seed, draws=500)
            note = f"mean confidence {percent(float(top.mean()))}"
            rows.append(within(row(name, over, int(known.sum()), "", clean, note), -1, 1))
    rows.sort(key=lambda one: -(one.value or 0))
    return Table("confidence", "Confidence minus accuracy under each corruption", tuple(rows), "the same faces, clean",
                 "Above 0 it is over-confident: it does not know that it cannot see.", "share")  # fmt: skip


def map_table(found: Broken, sample: Sample, seed: int) -> Table:
    """Whether the map of the clean answer stays where it was."""
    rows = []
    for c, name in enumerate(found.names):
        known = np.isfinite(found.alike[c]).any(0)
        if known.any():
            mean = np.nanmean(found.alike[c][:, known], axis=0)
            people = None if sample.people is None else sample.people[known]
            wide = np.isfinite(found.alike[c, -1])
            last = np.nanmean(found.alike[c, -1]) if wide.any() else np.nan
            kept = bootstrap_mean(mean, people, seed=seed, draws=500)
            one = row(name, kept, int(known.sum()), "higher", 0.0, f"at strength {STRENGTHS}: {last:.2f}")
            rows.append(within(one, -1, 1))
    rows.sort(key=lambda one: one.value if one.value is not None else 2.0)
    return Table("maps", "Map under each corruption against that of the clean face (Pearson)", tuple(rows),
                 "a map that has nothing to do with it", MAPS)  # fmt: skip


class CorruptionError(NamedTuple):
    """Of one corruption against a baseline (Hendrycks and Dietterich 2019)."""

    plain: float
    """Sum of the errors over the strengths, over that of the baseline. 1 is as good."""
    relative: float
    """The same of what the corruption adds to the clean error; NaN where the baseline loses nothing."""


def corruption_error(own: Array, clean: float, other: Array, other_clean: float) -> CorruptionError:
    """Errors (S,) at each strength and on clean faces of a model, and of the baseline."""
    total, added = other.sum(), (other - other_clean).sum()
    plain = own.sum() / total if total > 0 else float("nan")
    relative = (own - clean).sum() / added if added > 1e-9 else float("nan")
    return CorruptionError(float(plain), float(relative))


def relative_table(sample: Sample, found: Broken, baseline: Broken, name: str) -> Table:
    """MCE and relative mCE against another model on the same faces, each corruption, and their means."""
    wrong, other = errors(sample, found), errors(sample, baseline)
    clean, other_clean = ((one.clean.argmax(1) != sample.labels).astype(np.float64) for one in (found, baseline))
    rows, every = [], []
    for c, corruption in enumerate(found.names[: len(baseline.names)]):
        known = np.isfinite(wrong[c]).all(0) & np.isfinite(other[c]).all(0)
        if known.any():
            sides = ((wrong, clean), (other, other_clean))
            one = corruption_error(
                *(part for side, base in sides for part in (side[c][:, known].mean(1), base[known].mean()))
            )
            every.append(one)
            rows.append(row(corruption, one.relative, int(known.sum()), "lower", 1.0, f"CE {one.plain:.2f}"))
    plain, relative = (np.array([one[k] for one in every]) for k in (0, 1))
    known = np.isfinite(relative)
    mean = relative[known].mean() if known.any() else None
    rows.append(row("mean (relative mCE)", mean, sample.faces, "lower", 1.0, f"mCE {np.nanmean(plain):.2f}"))
    return Table("mce", f"Relative mCE against {name}", tuple(rows), name,
                 RELATIVE)  # fmt: skip


def curves(sample: Sample, found: Broken) -> Drawing:
    """Accuracy over the strengths, a curve a corruption."""
    wrong = errors(sample, found)
    clean = float((found.clean.argmax(1) == sample.labels).mean())
    return _curves("Accuracy under corruption", "accuracy", found.names, 1 - wrong, clean)


def map_curves(found: Broken) -> Drawing:
    """Likeness of the map over the strengths."""
    return _curves("Map under corruption", "Pearson with the clean map", found.names, found.alike, 1.0)


def _curves(title: str, y: str, names: tuple[str, ...], values: npt.NDArray[np.floating], clean: float) -> Drawing:
    count = np.isfinite(values).sum(2)
    means = np.where(count > 0, np.nansum(values, axis=2) / count.clip(1), np.nan)
    x = tuple(float(s) for s in range(STRENGTHS + 1))
    lines = tuple(Line(name, x, numbers([clean, *means[c]])) for c, name in enumerate(names))
    return Drawing(
        "lines",
        title,
        lines,
        "strength (0: clean)",
        y,
        caption="A curve is a corruption; strength 0 is the clean face.",
    )


def sentences(tables: list[Table], sample: Sample, found: Broken) -> tuple[str, ...]:
    """For the verdict."""
    worst = tables[0].rows[0]
    over = next(table for table in tables if table.key == "confidence").rows[0]
    clean = (found.clean.argmax(1) == sample.labels).mean()
    right = f"{percent(worst.value)} right on average over five strengths, {percent(clean)} on the clean faces"
    first = f"It breaks first under {worst.name}: {right}."
    if (worst.value or 0) >= clean:
        first = f"No corruption costs it accuracy on these {sample.faces} faces: under {worst.name}, where it is right least, {right}."
    points = round(100 * (over.value or 0))
    second = f"Under {over.name} it is most over-confident: confidence lies {points} points above accuracy."
    if points <= 0:
        second = f"Under no corruption is it over-confident: under {over.name} confidence lies {-points} points below accuracy, less "
        second += "than under any other."
    return first, second


def _cannot(sample: Sample, found: Broken) -> list[str]:
    left = [name for name in CORRUPTIONS if name not in found.names]
    told = [f"The time was over before {', '.join(left)}."] if left else []
    unknown = int((~np.isfinite(sample.landmarks).all((1, 2))).sum())
    if unknown:
        told.append(f"{unknown} faces without landmarks got no mask, sunglasses or hand.")
    if not np.isfinite(found.alike).any():
        told.append("No maps: how they change under corruptions is unknown.")
    return told
