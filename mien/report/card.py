"""model-card.md of a run: what it is for, what it must not be used for, what it scores and where it ends."""

from __future__ import annotations

from collections.abc import Mapping

from mien.config import GuidanceConfig, Recipe
from mien.errors import DataError
from mien.evaluation.collect import PREDICTED
from mien.files import write_atomic
from mien.report.facts import parameters_of, resampled
from mien.report.numbers import alignment, classification
from mien.report.runs import Group, Run
from mien.report.tables import faithfulness_table, levels
from mien.report.words import BASELINES, CEILING, MAPS, MISMATCHED, interval, number

OUT_OF_SCOPE = """\
- Telling what a person feels, intends, or is like. The model sees the look of a face, nothing else.
- Emotion inference at work or in education: the EU AI Act (Regulation (EU) 2024/1689, Article 5(1)(f)) prohibits it,
  medical and safety reasons excepted. Elsewhere emotion recognition counts as high-risk (Annex III) and people must be
  told of it (Article 50).
- Decisions about people: hiring, grading, credit, policing, health, lie detection.
- Guessing identity, race, gender or age.
- Watching people who have not agreed to it."""

LIMITS = """\
- Labels are judgements of posed or photographed expressions; people differ in how they express, and
  annotators disagree.
- The maps show where activations are large. They do not prove what the decision rests on.
- Alignment is measured against a cue. Maps of action units come from a codebook, the label and the landmarks, not from
  observed action units.
- Numbers hold for the data named above. Other cameras, poses, ages, skin tones and cultures can differ; measure them
  before use."""


PARTS = {"train": "train", "valid": "validation", "test": "test"}
TARGETS = {
    "votes": "the shares of the annotators' votes; the label where a face has none",
    "mixed": "0.6 of the label and 0.4 of the annotators' votes; the label where a face has none",
    "both": "one head for the shares of the annotators' votes (the label where a face has none), one for the label; scores by the "
    "labels are those of the second head, scores by the majority and explanations those of the first",
}
"""data.targets other than the label."""


def _pull(recipe: Recipe, guidance: GuidanceConfig) -> str:
    layers = ", ".join("the last layer" if layer == -1 else f"layer {layer}" for layer in guidance.layers)
    what = "" if guidance.attribution == "activation" else f" of {guidance.attribution}"
    return f"weight {guidance.weight:g}, {guidance.similarity}{what}, {layers}, cue `{guidance.cue or recipe.cue.kind}`"


def write_card(run: Run, seed: int = 0) -> None:
    """Write `model-card.md` into the run folder."""
    write_atomic(run.path / "model-card.md", card(run, seed))


def _warnings(run: Run) -> str:
    """What makes the scores too good."""
    paper = "\n> Protocol `paper`: the epoch was chosen on the scored faces. Expect less on new faces.\n"
    leak = "\n> Faces were scored behind masks drawn from their true label, so their accuracy says nothing.\n"
    return paper * (run.recipe.data.protocol == "paper") + leak * run.label_leak


def card(run: Run, seed: int = 0) -> str:
    """The card as Markdown."""
    results, recipe = run.results, run.recipe
    pulls = [_pull(recipe, guidance) for guidance in recipe.guidances().values() if guidance.weight]
    control = f" under control `{recipe.cue.control}`" if pulls and recipe.cue.control != "none" else ""
    training = f"guided: {'; and '.join(pulls)}{control}" if pulls else "unguided"
    elsewhere = f" of another store ({run.scored_on})" if run.foreign else ""
    kind = recipe.transformer.kind
    placed = "" if kind == "none" else f", picture placed by spatial transformer `{kind}`"
    return f"""# Model card: {run.name}

Recognises {len(run.classes)} facial expressions ({", ".join(run.classes)}) on a cropped face, and shows where it looks.
{_warnings(run)}
## Model

`{recipe.model.backbone}` with head `{recipe.model.head}`{placed}, input {recipe.model.size} px, seed {recipe.run.seed},
{parameters_of(run)} parameters.
Training {training}.
{_coverage(run)}Written by mien {run.env.get("mien", "?")}; settings in `config.yaml`, versions in `environment.json`.

## Data

{_data(run)}

## Intended use

Research on facial expressions and on the explanation of classifiers; teaching; a baseline for other models.

## Out of scope

{OUT_OF_SCOPE}

## Scores

On {results["faces"]} faces of split `{results["split"]}`{elsewhere}, {results.get("date", "date unknown")};
chance level {1 / len(run.classes):.3f}.
95 % intervals in brackets, over {resampled(run)}. ↑ higher, ↓ lower is better.

{_scores(run, seed)}

## Alignment and its baselines

Cosine between map and cue, mean over classes, on {results["faces_with_cue"]} faces with a cue
(`{results["cue"]["kind"]}`). A baseline is a map that never saw the face; a mismatched-cue baseline sets the model's
attention against a wrong cue. A score is worth what it adds to the baselines.

{_alignment(run)}

## Faithfulness

Does the map matter to the answer? Deletion and insertion change the brightest pixels first; the last scores correlate the map with
that of a net drawn anew.

{_faithfulness(run)}

## Limits

{LIMITS}
"""


def _data(run: Run) -> str:
    sizes, wanted = run.env.get("rows", {}), run.recipe.data.targets
    lines = [
        f"Trained on store {run.trained_on}.",
        f"Faces: train {sizes.get('train', '?')}, validation {sizes.get('valid', '?')}, test {sizes.get('test', '?')}.",
        _synthetic(run),
        f"Targets `{wanted}`: {TARGETS[wanted]}." if wanted in TARGETS else "",
        _teachers(run),
        f"Protocol `{run.results['protocol']}`. The licence of the data may limit the use of the weights.",
    ]
    return "\n".join(filter(None, lines))


def _teachers(run: Run) -> str:
    data = run.recipe.data
    names = ", ".join(f"`{one.name}`" for one in data.teachers)
    return f"A share of {data.teacher_share:g} of each target is the mean answer of {names}." if names else ""


def _coverage(run: Run) -> str:
    """A line for each part of the training that needs a cue: how many faces have one; nothing for an older run."""
    lines = [
        f"{part}: {one['with_cue']} of {one['faces']} training faces have a cue ({one['cue']}).\n"
        for part, one in run.env.get("cues", {}).items()
    ]
    return "".join(lines)


def _synthetic(run: Run) -> str:
    """A line on synthetic faces among photos: as the run has noted it, or as its store tells where the run is older than that."""
    noted = run.env.get("split", {}).get("synthetic")
    if noted:
        counts = ", ".join(f"{title} {noted[part]}" for part, title in PARTS.items() if noted[part])
        return (
            f"Of these drawn by a computer (`mien synthesize`), not photos: {counts} (source `{noted['source'][:12]}`)."
        )
    source = None if run.foreign else run.results.get("synthetic_source")
    source = source or _notes(run).get("synthetic_source")
    if not source:
        return ""
    return f"Among them are faces drawn by a computer (`mien synthesize`), not photos (source `{source[:12]}`)."


def _notes(run: Run) -> Mapping[str, str]:
    """What the store of the training knows of itself; nothing where it is gone or holds other faces now."""
    from mien.data.observed import open_faces

    try:
        store = open_faces(run.recipe.data.store, run.recipe.data.action_units)
    except DataError:
        return {}
    return store.info.notes if store.fingerprint == run.env.get("store_fingerprint") else {}


def _scores(run: Run, seed: int) -> str:
    names = {
        "accuracy": "accuracy ↑",
        "balanced_accuracy": "balanced accuracy ↑",
        "macro_f1": "macro-F1 ↑",
        "calibration_error": "expected calibration error ↓",
    }
    scores, blind = classification(Group(run.name, [run]), seed), levels(run)
    heads = ["score", "value", *(level["title"] for level in blind)]
    rows = [
        f"| {title} | {number(scores[name])} | {' | '.join(level.get(name, '–') for level in blind)} |"
        for name, title in names.items()
    ]
    if "votes" in run.results:
        votes = run.results["votes"]
        share = f"{votes['accuracy']:.3f}{_between(votes['accuracy_interval'])}"
        most = max(sum(row) for row in votes["confusion"]) / votes["count"]
        rows.append(
            f"| accuracy by the annotators' majority, {votes['count']} faces ↑ | {share} | {most:.3f} |{' – |' * (len(blind) - 1)}"
        )
    classes = run.results["classification"]["per_class"]
    recalls = [
        f"| {name} | {_three(entry['recall'])}{_between(entry.get('recall_interval'))} | {entry['count']} |"
        for name, entry in classes.items()
    ]
    return "\n".join([
        f"| {' | '.join(heads)} |", "| --- |" + " --- |" * (len(heads) - 1), *rows, "", "| class | recall ↑ | faces |",
        "| --- | --- | --- |", *recalls,
    ])  # fmt: skip


def _between(ends: list[float] | None) -> str:
    return f" {interval(ends[0], ends[1])}" if ends else ""


def _alignment(run: Run) -> str:
    group = Group(run.name, [run])
    names = {run.last_layer: "attention of the last layer (ATT-COS)"}
    names |= {run.class_map: f"{MAPS[run.class_map][0]} of the true class (CAM-COS)"}
    names |= {PREDICTED: "CAM of the predicted class, which needs no label"}
    names |= {key: f"baseline: {title}" for key, (title, _) in BASELINES.items()}
    names |= {key: f"ceiling: {title}" for key, (title, _) in CEILING.items()}
    names |= {key: f"mismatched: {title}" for key, (title, _) in MISMATCHED.items()}
    rows = [
        f"| {title} | {number(alignment(group, name, 'cosine'))} | {number(alignment(group, name, 'pearson'))} |"
        for name, title in names.items()
        if name in run.results["alignment"]
    ]
    return "\n".join(["| map | cosine ↑ | Pearson ↑ |", "| --- | --- | --- |", *rows])


def _faithfulness(run: Run) -> str:
    """Deletion, insertion and randomised models, or how to measure them."""
    table = faithfulness_table([Group(run.name, [run])])
    if table is None:
        return "Not measured; `mien evaluate RUN --faithfulness` adds it."
    rows = []
    for row in table["rows"]:
        cells = [block[0] for block in row["scores"]]
        rows.append(
            " | ".join([f"| {row['title']}", *(f"{cell['text']} {cell['note']}".strip() for cell in cells)]) + " |"
        )
    head = f"| map | {' | '.join(table['kinds'])} |"
    return "\n".join([
        f"Over {table['faces'][0]} faces; read each row beside the random map and the centre blob.", "", head,
        "| --- " * (1 + len(table["kinds"])) + "|", *rows,
    ])  # fmt: skip


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
