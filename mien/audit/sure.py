"""Sure? Calibration, Brier score, log loss, and what abstaining buys, before and after a temperature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mien.audit.sample import Sample
from mien.audit.table import Drawing, Line, Part, Row, Table, numbers, percent, row
from mien.errors import DataError
from mien.metrics.calibration import fit_temperature, scaled
from mien.metrics.confidence import (
    SMALLEST,
    brier,
    calibrated_error,
    equal_mass,
    mean_log_loss,
    risk_coverage,
)
from mien.metrics.intervals import Interval, bootstrap_mean
from mien.metrics.reweighted import calibration_intervals
from mien.schema import FloatArray, IntArray

TITLE = "Is it sure when it may be?"
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
WANTED = (0.8, 0.9, 0.95)
"""Accuracies that an abstention table asks for."""


def sure(sample: Sample, probabilities: FloatArray, seed: int = 0) -> Part:
    """Calibration before and after a temperature that other people's faces gave, risk against coverage, abstention."""
    scaled_, temperatures = cross_scaled(sample, probabilities, seed)
    found = calibration_intervals(probabilities, sample.labels, sample.people)
    tables = [scores("before", "As it answers", sample, probabilities, found)]
    cannot = []
    if scaled_ is None:
        cannot.append("Too few people to fit a temperature on some and score it on others.")
    else:
        ends = " and ".join(f"{value:.2f}" for value in temperatures)
        title = f"After a temperature ({ends}, each half scored with that of the other)"
        after = calibration_intervals(scaled_, sample.labels, sample.people)
        tables.append(scores("after", title, sample, scaled_, after))
    tables += [class_table(sample, probabilities, found), abstention(sample, probabilities)]
    drawings = (reliability(sample, probabilities, scaled_), coverage_curve(sample, probabilities))
    return Part("sure", TITLE, tuple(tables), drawings, sentences(tables, sample, probabilities), tuple(cannot))


def cross_scaled(sample: Sample, probabilities: FloatArray, seed: int) -> tuple[FloatArray | None, tuple[float, ...]]:
    """Probabilities after temperature scaling, each half of the people with the temperature of the other half."""
    people = np.arange(sample.faces) if sample.people is None else sample.people
    order = np.random.default_rng(seed).permutation(int(people.max()) + 1)
    half = order[people] % 2
    logits = np.log(np.asarray(probabilities, dtype=np.float64).clip(SMALLEST))
    if min((half == 0).sum(), (half == 1).sum()) < 10:
        return None, ()
    out, found = np.empty_like(probabilities), []
    for side in (0, 1):
        temperature = fit_temperature(logits[half != side], sample.labels[half != side])
        out[half == side] = scaled(logits[half == side], temperature)
        found.append(temperature)
    return out, tuple(found)


def scores(key: str, title: str, sample: Sample, probabilities: FloatArray, found: Mapping[str, Interval]) -> Table:
    """Every summary of calibration as `calibration_intervals` found it, beside always naming the frequencies of the classes."""
    labels, n = sample.labels, sample.faces
    counts = np.bincount(labels, minlength=probabilities.shape[1]) / n
    blind = np.tile(counts, (n, 1))
    zero, risk = brier(blind, labels), risk_coverage(probabilities, labels)
    lucky = f"with so few faces a perfectly calibrated model has {calibrated_error(probabilities):.3f}"
    rows = [
        row("ECE, bins of equal mass", found["ece"], n, "lower", 0.0, lucky),
        row("adaptive calibration error", found["adaptive"], n, "lower", 0.0, "all classes, bins of equal mass"),
        row("class-wise ECE", found["class_wise"], n, "lower", 0.0, "all classes, bins of equal width"),
        row("mean confidence minus accuracy", found["over"], n, "", 0.0, "above 0 over-confident, below 0 under-confident"),
        row("Brier score", found["brier"], n, "lower", zero.score),
        row("· reliability", found["reliability"], n, "lower", zero.reliability, "part of the Brier score that calibration cures"),
        row("· resolution", found["resolution"], n, "higher", zero.resolution, "subtracted: how much the answers tell apart"),
        row("· uncertainty", found["uncertainty"], n, "", zero.uncertainty, "of the faces, not of the model"),
        row("· within bins", found["within"], n, "", zero.within),
        row("negative log-likelihood", found["log_loss"], n, "lower", mean_log_loss(blind, labels), "nats"),
        row("AURC", found["aurc"], n, "lower", risk.chance, f"an order that knows every error has {risk.best:.3f}"),
    ]  # fmt: skip
    return Table(key, title, tuple(rows), "always naming the frequencies of the classes; for AURC a random order")


def class_table(sample: Sample, probabilities: FloatArray, found: Mapping[str, Interval]) -> Table:
    """Calibration error of each class's own probability."""
    rows = []
    for k, name in enumerate(sample.classes):
        share = float((sample.labels == k).mean())
        over = float(probabilities[:, k].mean()) - share
        said = f"said {percent(probabilities[:, k].mean(), 1)} on average, {percent(share, 1)} are ({over:+.3f})"
        rows.append(row(name, found[f"class_wise {k}"], int((sample.labels == k).sum()), "lower", 0.0, said))
    return Table("classes", "Calibration of each class", tuple(rows), "perfect calibration",
                 "n counts the faces of the class; the error is over all faces.")  # fmt: skip


def abstention(sample: Sample, probabilities: FloatArray) -> Table:
    """Accuracy when only the most confident are answered, and which confidence an accuracy asks for."""
    hit = (probabilities.argmax(1) == sample.labels).astype(np.float64)
    top, rows = probabilities.max(1), []
    order = np.argsort(-top, kind="stable")
    for share in COVERAGES:
        count = max(1, round(share * len(order)))
        kept = top >= top[order[count - 1]]  # those of one confidence are answered together
        people = None if sample.people is None else sample.people[kept]
        found = bootstrap_mean(hit[kept], people)
        rows.append(row(f"the {percent(share)} most confident", found, int(kept.sum()), "higher", hit.mean(),
                        f"confidence of {top[order[count - 1]]:.2f} or more"))  # fmt: skip
    for wanted in WANTED:
        rows.append(_for_accuracy(wanted, probabilities, sample.labels, len(hit)))
    return Table("abstention", "What abstaining buys", tuple(rows), "answering every face",
                 "Rows of an accuracy give the share of faces that can still be answered.", "share")  # fmt: skip


def _for_accuracy(wanted: float, probabilities: FloatArray, labels: IntArray, n: int) -> Row:
    from mien.metrics.calibration import abstain_threshold

    name = f"answered when {percent(wanted)} must be right"
    try:
        threshold, share = abstain_threshold(probabilities, labels, wanted)
    except DataError:
        return row(name, 0.0, n, "higher", note="no confidence reaches it on these faces")
    return row(
        name,
        share,
        n,
        "higher",
        note=f"confidence of {threshold:.2f} or more; chosen on these faces, so a little too good",
    )


def reliability(sample: Sample, probabilities: FloatArray, scaled_: FloatArray | None) -> Drawing:
    """Accuracy against confidence in bins of equal mass."""
    lines = []
    for name, shares in (("as it answers", probabilities), ("after temperature", scaled_)):
        if shares is not None:
            bins = equal_mass(shares.max(1), shares.argmax(1) == sample.labels)
            lines.append(Line(name, tuple(bins.confidence.tolist()), numbers(bins.share)))
    return Drawing("lines", "Reliability", tuple(lines), "confidence", "accuracy", diagonal=True,
                   caption="Each dot holds the same number of faces. Below the diagonal it is over-confident.")  # fmt: skip


def coverage_curve(sample: Sample, probabilities: FloatArray) -> Drawing:
    """Risk against coverage beside a random order and one that knows every error."""
    found = risk_coverage(probabilities, sample.labels)
    step = max(1, len(found.coverage) // 200)
    x = tuple(found.coverage[::step].tolist())
    best = tuple(max(0.0, (c - (1 - found.chance)) / c) for c in x)
    lines = (
        Line("this model", x, numbers(found.risk[::step])),
        Line("knows every error", x, best),
        Line("random order", x, tuple(found.chance for _ in x)),
    )
    return Drawing("lines", "Risk against coverage", lines, "share of faces answered", "share of these that are wrong",
                   caption="Faces are answered from the most confident on.")  # fmt: skip


def sentences(tables: list[Table], sample: Sample, probabilities: FloatArray) -> tuple[str, ...]:
    """For the verdict."""
    rows = {one.name: one for one in tables[0].rows}
    over = rows["mean confidence minus accuracy"].value or 0.0
    word = "over-confident" if over > 0 else "under-confident"
    error = rows["ECE, bins of equal mass"].value
    text = f"Its confidence is off by {percent(error)} on average (ECE), {word} by {percent(abs(over))}"
    if tables[1].key == "after":
        after = {one.name: one for one in tables[1].rows}["ECE, bins of equal mass"].value
        text += f"; a temperature makes that {percent(after)}"
    table = next(table for table in tables if table.key == "abstention")
    half = next(one for one in table.rows if one.name.startswith("the 50"))
    first = f"On the half of the faces that it is most confident of, {percent(half.value)} are right, "
    return f"{text}.", f"{first}against {percent(half.baseline)} of all."
