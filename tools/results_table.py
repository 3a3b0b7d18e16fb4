"""Markdown tables of evaluated runs, for docs/results.md.

    python tools/results_table.py RUN [RUN ...]

One column a run; intervals are 95 % bootstrap intervals over faces.
"""

import json
import sys
from pathlib import Path
from typing import Any

SCORES = {"cosine": "ATT-COS / CAM-COS (cosine)", "pearson": "Pearson", "energy": "energy in the map"}


def classification(results: dict[str, Any], key: str) -> str:
    scores = results["classification"]
    interval = scores.get(f"{key}_interval")
    return f"{scores[key]:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def alignment(results: dict[str, Any], name: str, kind: str) -> str:
    score = results["alignment"][name][kind]
    text = f"{score['class_mean']:.3f}"
    return text + " [{:.3f}, {:.3f}]".format(*score["interval"]) if kind == "cosine" else text


def main(folders: list[Path]) -> None:
    runs = {folder.name: json.loads((folder / "results.json").read_text()) for folder in folders}
    first = next(iter(runs.values()))
    print(f"| {first['faces']} faces | " + " | ".join(runs) + " |\n| --- |" + " ---: |" * len(runs))
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error"):
        print(f"| {key.replace('_', ' ')} | " + " | ".join(classification(r, key) for r in runs.values()) + " |")
    for kind, title in SCORES.items():
        print(
            f"\n| {title}, {first['faces_with_cue']} faces | "
            + " | ".join(runs)
            + " |\n| --- |"
            + " ---: |" * len(runs)
        )
        for name in first["alignment"]:
            print(f"| {name} | " + " | ".join(alignment(r, name, kind) for r in runs.values()) + " |")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
