"""Sentences of the report that follow from its numbers, and the explanations beside its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mien.metrics.intervals import Comparison
from mien.report.family import Family, Ruling, seeds_sentence
from mien.report.numbers import Difference, Number, Paired, alignment, beyond, classification
from mien.report.runs import Group

SCORES = (
    (
        "cosine",
        "Cosine",
        "The published score. It rewards any map that is bright everywhere, so read it beside the baselines.",
    ),
    ("pearson", "Pearson", "Correlation over pixels: cosine after taking both means away. A constant map scores 0."),
    ("energy", "Energy", "Share of the map's mass where the cue is at least 0.5."),
    ("pointing", "Pointing", "Does the map's single highest point lie where the cue is at least 0.5?"),
)
MAPS = {
    "cam": ("CAM", "Class activation map of the true class (Zhou et al. 2016); its cosine is the published CAM-COS."),
    "grad_cam": ("Grad-CAM", "Selvaraju et al. 2017; for a pooled linear head the positive part of CAM."),
    "grad_cam_pp": (
        "Grad-CAM++",
        "Chattopadhay et al. 2018: channels that speak for the class, weighted by their mean.",
    ),
    "layer_cam": ("LayerCAM", "Jiang et al. 2021: gradient and activation multiplied at every pixel."),
    "grad_input": ("Grad*Input", "Bonnard et al. 2022: size of gradient times activation, the mean over channels."),
    "ts_cam": ("TS-CAM", "Gao et al. 2021: class map of the true class times the class token's attention."),
    "cam@predicted": (
        "CAM, predicted class",
        "Needs no label: CAM of the predicted class against the cue of that class, what a user sees. On faces with both cues.",
    ),
    "attention": ("token attention", "What the transformer itself attends to, for no class in particular."),
    "rollout": ("attention rollout", "Abnar and Zuidema 2020: attention followed through all blocks, for no class."),
}
FAITHFUL = {
    "deletion": "deletion",
    "insertion": "insertion",
    "randomised_head": "likeness, head randomised",
    "randomised_all": "likeness, net randomised",
}
BASELINES = {
    "baseline:uniform": ("uniform map", "The same value everywhere: what a score gives away for nothing."),
    "baseline:centre": ("centre blob", "One fixed blob in the middle of every picture."),
    "baseline:mean": (
        "dataset-mean cue",
        "The mean cue of the training faces: where faces move, whatever they express.",
    ),
    "baseline:class_weighted": (
        "class-mean cues, weighted",
        "The mean cues of the classes, weighted by the probabilities that the model gives them.",
    ),
    "baseline:class_mean_predicted": (
        "class-mean cue, predicted class",
        "The mean cue of the training faces of the predicted class: the strongest map that never saw the face, for maps that "
        "are told no label, such as attention. A model at this level has learnt what an expression looks like on average, not "
        "where this face shows it.",
    ),
    "baseline:class_mean": (
        "class-mean cue, true class",
        "The same of the true class: the baseline of maps of the true class.",
    ),
    "baseline:class_mean@predicted": (
        "class-mean cue against the predicted class",
        "The mean cue of the predicted class, against the cue of that class: the baseline of the CAM of the predicted class.",
    ),
}
CEILING = {
    "ceiling": (
        "the face's own cue",
        "Drawn at the size of the last layer and resized: what a perfect map of that size scores.",
    )
}
_WRONG = {
    "same_class": (
        "another face of the class",
        "Attention against the cue of another face with the same expression. Close to the last layer's own score: the attention "
        "does not follow the face.",
    ),
    "other_class": (
        "another expression's cue",
        "Attention against the cue of another expression on the same face. Close to the last layer's own score: "
        "the attention is not specific to the expression.",
    ),
    "inverted": (
        "inverted cue",
        "Attention against one minus the cue. Cosine stays high, because an inverted cue is bright almost everywhere; "
        "Pearson is exactly the opposite of the score against the right cue.",
    ),
}
MISMATCHED = {
    f"mismatched:{name}{end}": (f"{title}{who}", note if not end else "")
    for name, (title, note) in _WRONG.items()
    for end, who in (("", ""), (":perfect", ": a perfect map there"), (":class_mean", ": the class-mean cue there"))
}


def explain_map(name: str, last: str) -> tuple[str, str]:
    """Heading and explanation of a row of the alignment table."""
    if name.startswith("layer-"):
        number = name.split("-")[1]
        if name == last:
            return f"attention, layer {number}", "Last layer, mean over channels; its cosine is the published ATT-COS."
        return f"attention, layer {number}", "Mean over channels." if number == "1" else ""
    if name.startswith(("guided:", "second:")):
        channels = "all channels, also those left free" if name.endswith("-all") else "the channels that were pulled"
        attribution = name.split(":")[1].removesuffix("-all")
        mean = "Mean" if attribution == "activation" else "Of the true class, mean"
        return attribution, f"{mean} over {channels}, at the deepest guided layer."
    return {**MAPS, **BASELINES, **CEILING, **MISMATCHED, "baseline:random": ("random map", "")}.get(name, (name, ""))


def signed(value: float) -> str:
    """Three decimals with a sign, a true minus."""
    return f"{value:+.3f}".replace("-", "−")


def interval(low: float, high: float, sign: bool = False) -> str:
    """[low, high] with three decimals; nothing where a single value gives no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    one, two = (signed(low), signed(high)) if sign else (f"{low:.3f}", f"{high:.3f}")
    return f"[{one}, {two}]".replace("[-", "[−").replace(" -", " −")


def number(value: Number) -> str:
    """Value and interval in one line."""
    if value.value is None:
        return "unknown"
    between = f" {interval(value.low, value.high)}" if value.low is not None and value.high is not None else ""
    return f"{value.value:.3f}{between}"


def verdict(groups: Sequence[Group], tests: Sequence[Paired], family: Family, seed: int) -> list[str]:
    """The first paragraph: differences with intervals, then what the alignment is worth beside its baseline."""
    sentences = [_test_sentence(test, rulings) for test, rulings in zip(tests, family.rulings, strict=True)]
    if not tests:
        scores = classification(groups[0], seed)
        sentences.append(
            f"{groups[0].name} recognises the expression of {number(scores['accuracy'])} of "
            f"{groups[0].first.results['faces']} {groups[0].first.results['split']} faces "
            f"(balanced {number(scores['balanced_accuracy'])})."
        )
    sentences.append(" ".join(_baseline_sentence(group, seed) for group in groups))
    sentences += [sentence for test in tests if (sentence := seeds_sentence(test))]
    if any(len(test.pairs) == 1 for test in tests):
        sentences.append(
            "Each recipe was trained once here. The intervals cover the choice of faces, not the luck of a training; how many seeds "
            "a claim would need cannot be told from one. Train more (--run.seed 1, 2, …) and give all run folders to this command."
        )
    return sentences


def _test_sentence(test: Paired, rulings: Mapping[str, Ruling]) -> str:
    names = [name for name in ("accuracy", "att_cos") if name in test.differences]
    parts = [_part(test.differences[name], rulings[name]) for name in names]
    seeds = f" over {len(test.pairs)} seeds" if len(test.pairs) > 1 else ""
    tail = "" if "att_cos" in names else " Their alignment is measured against different cues and is not compared."
    return (
        f"{test.other.name} against {test.base.name}{seeds}, on the same {test.faces} faces: {'; '.join(parts)}.{tail}"
    )


def _part(difference: Difference, ruling: Ruling) -> str:
    test = difference.test
    name = difference.title.replace(", last layer", "")
    what = over(difference.faces) + (f" and {difference.seeds.n} seeds" if difference.seeds else "")
    return f"{name} difference {signed(test.difference)} {interval(test.low, test.high, sign=True)} over {what} ({ruling.word})"


def over(test: Comparison) -> str:
    """What was resampled: `12 people` or `400 faces`."""
    return f"{test.clusters} {'people' if test.grouped else 'faces'}"


def class_mean_of(group: Group, map_: str) -> str | None:
    """Key of the class-mean baseline that a map is read against; None for a row that has none."""
    found = group.first.results["excess"].get(map_)
    return found["over"] if found else None


def _baseline_sentence(group: Group, seed: int) -> str:
    last = group.first.last_layer
    row = class_mean_of(group, last)
    own, other = alignment(group, last, "cosine"), alignment(group, "mismatched:other_class", "cosine").value
    blind = alignment(group, row, "cosine").value if row else None
    if row is None or blind is None or own.value is None:
        return f"{group.name}: no face has a cue, so there is no alignment."
    test = beyond(group, row, "cosine", seed)
    place = _place(group, row, seed)
    text = f"Attention of {group.name} scores {own.value:.3f}, {place} the class-mean cue ({blind:.3f}), which never saw the face"
    if test is not None:
        text += f" (excess {signed(test.difference)} {interval(test.low, test.high, sign=True)})"
    if other is not None:
        perfect = alignment(group, "mismatched:other_class:perfect", "cosine").value
        text += (
            f"; against another expression's cue it scores {other:.3f}, where a perfect map scores {perfect or 0:.3f}"
        )
    return f"{text}."


def _place(group: Group, baseline: str, seed: int) -> str:
    """Above or below a baseline, or neither shown, by the paired interval."""
    test = beyond(group, baseline, "cosine", seed)
    if test is None or (test.low <= 0 <= test.high):
        return "not shown to differ from"
    return "above" if test.low > 0 else "below"
