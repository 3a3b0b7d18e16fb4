"""The tables of "Is the explanation true?", from the scores of `mien.audit.faithful`."""

from __future__ import annotations

import numpy as np

from mien.audit.faithful import BASELINES, CUTS, SHUFFLED, Faithful, mean_correlation
from mien.audit.sample import Sample
from mien.audit.table import Direction, Drawing, Line, Part, Row, Table, numbers, p_words, row, within
from mien.metrics.intervals import bootstrap_mean, paired_bootstrap
from mien.metrics.perturbed import DIRECTIONS
from mien.schema import FloatArray

TITLE = "Is the explanation true?"
SHOWN = {"random": "random map", "class_mean": "class-mean cue", "centre": "centre", "cue": "exact cue"}
NAMES = {
    "region_rank": "AU regions: share against effect", "deletion": "deletion", "insertion": "insertion", "road": "ROAD",
    "average_drop": "average drop", "increase": "increase in confidence", "coherency": "coherency", "adcc": "ADCC",
    "sensitivity_n": "sensitivity-n", "infidelity": "infidelity", "max_sensitivity": "max-sensitivity",
    "flip": "follows a flip", "shift": "follows a shift", "turn": "follows a turn", "entropy": "entropy", "gini": "Gini",
}  # fmt: skip
"""Score -> what it is called, in the order of the table."""
NOTE = (
    "Each row is a mean over faces of the map of the predicted class, its interval over people. The baseline is a random map; "
    "the note holds the class-mean cue, the centre and the exact cue of the face. Entropy and Gini have no good or bad: they "
    "say how compact a map is. Coherency and ADCC favour maps that do not depend on the picture. A map that never sees the "
    "picture has no max-sensitivity."
)


def truth(sample: Sample, found: Faithful, method: str, seed: int = 0) -> Part:
    """Faithfulness, localisation, AU regions and sanity checks; `sample` are the faces that were scored."""
    if not found.scores:
        return Part("explanation", TITLE, cannot=("The time was over before any face was explained.",))
    n = len(next(iter(found.scores["own"].values())))
    scored = sample.part(np.arange(n))
    tables = [main_table(scored, found, seed), others_table(scored, found, seed)]
    located = localisation_table(scored, found, seed)
    tables += [located] if located.rows else []
    tables += [unit_table(scored, found, seed), *mean_map_table(found)]
    cannot = []
    if found.twins:
        tables.append(sanity_table(scored, found, seed))
    if "cascading" not in found.twins:
        cannot.append(
            "Its weights cannot be made random (no net, or no time): no sanity checks by randomised parameters."
        )
    if not np.isfinite(found.scores["own"]["region_rank"]).any():
        cannot.append("No landmarks, or no effect of any region: shares cannot be held against effects.")
    if not located.rows:
        cannot.append("No face has a cue for the class that it is given: the map cannot be localised.")
    if SHUFFLED not in found.twins:
        cannot.append("No training on random labels was named (--random-labels).")
    drawings = tuple(one for one in (score_drawing(tables[0], tables[1]), unit_drawing(found), sanity(found)) if one)
    return Part(
        "explanation", f"{TITLE} ({method})", tuple(tables), drawings, sentences(tables, found, scored), tuple(cannot)
    )


def quality(found: Faithful, faces: int) -> FloatArray:
    """(faces,) rank correlation of share and effect, NaN for faces that were not scored: what groups are compared by."""
    out = np.full(faces, np.nan, np.float32)
    if found.scores:
        own = found.scores["own"]["region_rank"]
        out[: len(own)] = own
    return out


def mean_of(sample: Sample, values: FloatArray, seed: int, span: tuple[float, float] = (-1.0, 1.0)) -> Row:
    """Mean over the faces where a score is defined, with its interval inside `span`."""
    known = np.isfinite(values)
    if not known.any():
        return row("", None)
    people = None if sample.people is None else sample.people[known]
    return within(row("", bootstrap_mean(values[known], people, seed=seed, draws=500), int(known.sum())), *span)


def span_of(kind: str) -> tuple[float, float]:
    """Least and largest value that a score can take."""
    if kind in ("region_rank", "sensitivity_n", "flip", "shift", "turn", "road"):
        return -1.0, 1.0
    return 0.0, np.inf if kind in ("entropy", "infidelity", "max_sensitivity") else 1.0


def better(kind: str) -> Direction:
    """Direction of a score."""
    return "" if kind in ("entropy", "gini") else "higher" if DIRECTIONS[kind] else "lower"


def main_table(sample: Sample, found: Faithful, seed: int) -> Table:
    """A row a score: the own map beside all baselines."""
    rows = []
    for kind, name in NAMES.items():
        if kind in found.scores["own"]:
            own = mean_of(sample, found.scores["own"][kind], seed, span_of(kind))
            beside = {key: _mean(found.scores[key].get(kind)) for key in BASELINES}
            note = ", ".join(
                f"{SHOWN[key]} {value:.2f}" for key, value in beside.items() if key != "random" and value is not None
            )
            rows.append(own._replace(name=name, better=better(kind), baseline=beside["random"], note=note))
    return Table("scores", "The map under every test", tuple(rows), "a random map", NOTE)


def others_table(sample: Sample, found: Faithful, seed: int) -> Table:
    """The baselines with their intervals, and how much the own map differs from the class-mean cue."""
    rows = []
    for kind, name in NAMES.items():
        for key in BASELINES:
            if kind in found.scores[key]:
                one = mean_of(sample, found.scores[key][kind], seed, span_of(kind))
                rows.append(one._replace(name=f"{name}: {SHOWN[key]}", better=better(kind)))
        if kind in found.scores["own"] and kind in found.scores["class_mean"]:
            a, b = found.scores["class_mean"][kind], found.scores["own"][kind]
            known = np.isfinite(a) & np.isfinite(b)
            if known.sum() > 1:
                people = None if sample.people is None else sample.people[known]
                test = paired_bootstrap(a[known], b[known], people, seed=seed, draws=500)
                rows.append(Row(f"{name}: own minus class-mean cue", test.difference, test.low, test.high, test.n,
                                better(kind), 0.0, f"{p_words(test.p)}, not corrected"))  # fmt: skip
    return Table("baselines", "What maps that never saw the net score", tuple(rows))


def localisation_table(sample: Sample, found: Faithful, seed: int) -> Table:
    """IoU, precision, recall and F1 with the AU cue of the predicted class at stated cuts."""
    rows = []
    for cut in CUTS:
        for kind in ("iou", "precision", "recall", "f1"):
            own = found.scores["own"].get(f"{kind}@{cut:g}")
            if own is not None and np.isfinite(own).any():
                beside = {key: _mean(found.scores[key].get(f"{kind}@{cut:g}")) for key in BASELINES}
                note = ", ".join(
                    f"{SHOWN[key]} {value:.2f}"
                    for key, value in beside.items()
                    if key != "random" and value is not None
                )
                label = f"{kind if kind in ('precision', 'recall') else kind.upper().replace('IOU', 'IoU')} at {cut:g} of the maximum"
                rows.append(
                    mean_of(sample, own, seed, (0, 1))._replace(
                        name=label, better="higher", baseline=beside["random"], note=note
                    )
                )
    return Table("localisation", "Does it lie on the action units?", tuple(rows), "a random map",
                 "Against the region of the action units of the predicted class (cue at least 0.5).")  # fmt: skip


def unit_table(sample: Sample, found: Faithful, seed: int) -> Table:
    """For each action unit what covering its region costs, beside its share of the map."""
    rows = []
    for u, name in enumerate(found.units):
        if np.isfinite(found.effects[:, u]).any():
            effect = mean_of(sample, found.effects[:, u], seed)
            share = _mean(found.shares[:, u])
            rows.append(effect._replace(name=name, note="" if share is None else f"share of the map {share:.2f}"))
    return Table("units", "Action-unit regions: what covering them costs", tuple(rows), "",
                 "Probability of the predicted class lost where the region is blurred away. Regions overlap.")  # fmt: skip


def mean_map_table(found: Faithful) -> list[Table]:
    """Normalised correlation of the mean map of a class with its mean cue."""
    maps = found.means.get("map", {})
    rows = [
        row(name, mean_correlation(map_, found.means["cue"][name]), 0, "higher", 0.0) for name, map_ in maps.items()
    ]
    if not rows:
        return []
    text = "Maps are min-max first, then averaged over the faces that are given the class; classes with five or more."
    return [
        Table(
            "means",
            "Mean map of each class against its mean cue (normalised correlation)",
            tuple(rows),
            "no relation",
            text,
        )
    ]


def sanity_table(sample: Sample, found: Faithful, seed: int) -> Table:
    """Likeness of the map to those of nets whose weights are random."""
    rows = []
    for kind, each in found.twins.items():
        for k, values in enumerate(each):
            stage = f"{kind}, {'stage' if kind == 'independent' else 'up to stage'} {k + 1} of {len(each)}"
            name = kind if kind == SHUFFLED else stage
            one = mean_of(sample.part(np.arange(len(values))), values, seed)
            left = int((~np.isfinite(values)).sum())
            rows.append(one._replace(name=name, better="lower", note=f"{left} flat maps left out" if left else ""))
    return Table("sanity", "Sanity checks: likeness to maps of randomised nets (Pearson)", tuple(rows), "",
                 "Stage 1 holds the output. A map that stays when weights turn random shows the picture, not the model.")  # fmt: skip


def score_drawing(main: Table, others: Table) -> Drawing:
    """The scores between 0 and 1 as dots, own map against its baselines."""
    kept = {"deletion", "insertion", "average drop", "ADCC", "sensitivity-n", "AU regions: share against effect"}
    lines = []
    for one in main.rows:
        if one.name in kept:
            lines.append(Line(f"{one.name}: own", (0.0,), (one.value,), (one.low,), (one.high,)))
            for other in others.rows:
                if other.name.startswith(f"{one.name}: ") and "minus" not in other.name:
                    lines.append(
                        Line(other.name.replace(one.name, "·", 1), (1.0,), (other.value,), (other.low,), (other.high,))
                    )
    return Drawing("dots", "The map and what never saw the net", tuple(lines), "score",
                   caption="Deletion and average drop: lower is better; the others: higher.")  # fmt: skip


def unit_drawing(found: Faithful) -> Drawing | None:
    """Share of the map against effect of covering, a curve each over the action units."""
    known = np.asarray(np.isfinite(found.effects).any(0) & (len(found.effects) > 0))
    if not known.any():
        return None
    names = tuple(name for name, there in zip(found.units, known, strict=True) if there)
    x = tuple(float(k) for k in range(len(names)))
    lines = (
        Line("share of the map", x, numbers([_mean(found.shares[:, k]) or np.nan for k in np.flatnonzero(known)])),
        Line(
            "probability lost when covered",
            x,
            numbers([np.nanmean(found.effects[:, k]) for k in np.flatnonzero(known)]),
        ),
    )
    return Drawing("lines", "Share against effect of each action unit", lines, "", "share, probability", names,
                   "Where the two part, the map claims more or less than the region matters.")  # fmt: skip


def sanity(found: Faithful) -> Drawing | None:
    """Likeness over the stages."""
    lines = []
    for kind, each in found.twins.items():
        if kind == SHUFFLED:
            continue
        means = [_mean(values) for values in each]
        lines.append(Line(kind, tuple(float(k + 1) for k in range(len(means))), tuple(means)))
    caption = "Pearson with the net's own map; stage 1 is the output. Lower is better."
    return (
        Drawing("lines", "Maps of randomised nets", tuple(lines), "stage", "Pearson", caption=caption)
        if lines
        else None
    )


def sentences(tables: list[Table], found: Faithful, sample: Sample) -> tuple[str, ...]:
    """For the verdict."""
    rows = {one.name: one for one in tables[0].rows}
    rank, told = rows.get(NAMES["region_rank"]), []
    if rank is not None and rank.value is not None:
        text = f"Its map follows what regions of the face do to the answer with a rank correlation of {rank.value:.2f}"
        told.append(f"{text} (a random map {rank.baseline or 0:.2f}; {rank.note}).")
    gone, base = rows["deletion"], _mean(found.scores["class_mean"]["deletion"])
    if gone.value is not None:
        mean = "" if base is None else f", {base:.2f} in that of the class-mean cue"
        told.append(
            f"Deleting in the map's order leaves a probability of {gone.value:.2f} on average, "
            f"{gone.baseline or 0:.2f} in random order{mean}."
        )
    if "cascading" in found.twins:
        last = _mean(found.twins["cascading"][-1])
        if last is not None:
            told.append(
                f"With all weights random its maps correlate {last:.2f} with the own ones; 0 would be a map of the model alone."
            )
    return tuple(told)


def _mean(values: FloatArray | None) -> float | None:
    return None if values is None or not np.isfinite(values).any() else float(np.nanmean(values))
