"""What `mien evaluate` prints: the tables that a person wants to see first."""

from __future__ import annotations

from typing import Any

from mien.data.masking import LEAK
from mien.evaluation.scores import LANDMARKS_ONLY
from mien.metrics.alignment import score_names
from mien.metrics.faithfulness import FAITHFULNESS

LEVELS = {"majority": "the most frequent class", LANDMARKS_ONLY: "68 landmarks alone (LDA)"}
"""Level of recognition in results.json -> its words."""


def print_results(results: dict[str, Any]) -> None:
    """The tables that a person wants to see first."""
    scores = results["classification"]
    print(
        f"{results['run']} on {results['split']} ({results['faces']} faces, protocol {results['protocol']}): "
        f"accuracy {scores['accuracy']:.4f}, balanced {scores['balanced_accuracy']:.4f}, macro-F1 {scores['macro_f1']:.4f}, "
        f"ECE {scores['calibration_error']:.4f}"
    )
    levels = results["levels"]
    print(
        "without a look at the picture: "
        + ", ".join(f"{LEVELS[name]} {found['accuracy']:.4f}" for name, found in levels.items())
    )
    if "end_to_end" in results:
        whole = results["end_to_end"]
        print(
            f"from photo to label, {whole['not_found']} faces that were not found counted as wrong: accuracy "
            f"{whole['accuracy']:.4f}, balanced {whole['balanced_accuracy']:.4f}"
        )
    if "votes" in results:
        votes = results["votes"]
        print(
            f"by the annotators' majority ({votes['count']} faces, ties left out): accuracy {votes['accuracy']:.4f}, "
            f"balanced {votes['balanced_accuracy']:.4f}"
        )
    print(
        f"alignment with the {results['cue']['kind']} cue over {results['faces_with_cue']} faces (class mean; higher is better)"
    )
    _print_scores(results["alignment"], score_names())
    print_excess(results)
    if "segmentation" in results:
        print("region of the cue by the segmentation head, per cent (class mean; higher is better)")
        _print_scores(results["segmentation"], ("dice", "iou"), digits=1)
    if results["label_leak"]:
        print(LEAK)
    faithful = results.get("faithfulness")
    if faithful is not None:
        print(f"faithfulness over {faithful['faces']} faces (class mean; insertion higher, the others lower is better)")
        _print_scores(faithful["scores"], tuple(FAITHFULNESS))


def print_excess(results: dict[str, Any]) -> None:
    """A row a map: what it scores beyond the class-mean cue on the same faces, with its interval."""
    if not results["faces_with_cue"]:
        return
    print(
        "excess over the class-mean cue, which never saw the face (class mean, 95 % interval; 0: no better than blind)"
    )
    print(f"  {'map':<22}{'cosine':>26}{'pearson':>26}")
    for name, kinds in results["excess"].items():
        cells = [_signed(kinds["scores"][kind]) for kind in ("cosine", "pearson")]
        print(f"  {name:<22}" + "".join(f"{cell:>26}" for cell in cells))


def _signed(score: dict[str, Any]) -> str:
    """+0.012 [-0.003, +0.027]; a dash for a map without a scored face."""
    if score["class_mean"] is None:
        return "-"
    between = " [{:+.3f}, {:+.3f}]".format(*score["interval"]) if score["interval"] else ""
    return f"{score['class_mean']:+.3f}{between}"


def _print_scores(table: dict[str, Any], kinds: tuple[str, ...], digits: int = 3) -> None:
    """A row a map, a column a score."""
    width = max(22, *(len(name) + 2 for name in table))
    print(f"  {'map':<{width}}" + "".join(f"{kind:>{max(len(kind) + 2, 9)}}" for kind in kinds))
    for name, scores in table.items():
        values = [scores[kind]["class_mean"] if kind in scores else None for kind in kinds]
        shown = ["-" if value is None else f"{value:.{digits}f}" for value in values]
        print(f"  {name:<{width}}" + "".join(f"{v:>{max(len(k) + 2, 9)}}" for k, v in zip(kinds, shown, strict=True)))


def print_classes(results: dict[str, Any]) -> None:
    """A row a class: recall, what it is most often misclassified as, and the cosine of right / wrong predictions."""
    names = list(next(iter(results["per_class"].values()))["cosine"])
    print("class by class: cosine with the cue, predicted rightly / wrongly")
    print(
        f"  {'class':<12}{'faces':>6}{'recall':>8}  {'misclassified as':<18}" + "".join(f"{name:>16}" for name in names)
    )
    for name, row in results["per_class"].items():
        recall = "-" if row["recall"] is None else f"{row['recall']:.3f}"
        taken = f"{row['taken_for']} ({row['taken_for_share']:.2f})" if row["taken_for"] else "-"
        cells = [
            " / ".join("-" if entry[side] is None else f"{entry[side]:.3f}" for side in ("right", "wrong"))
            for entry in row["cosine"].values()
        ]
        print(f"  {name:<12}{row['faces']:>6}{recall:>8}  {taken:<18}" + "".join(f"{cell:>16}" for cell in cells))
