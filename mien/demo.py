"""The main job in one command: the claim of guided training, on synthetic faces, with its baselines beside it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from mien.config import AugmentConfig, DataConfig, GuidanceConfig, ModelConfig, OptimConfig, Recipe, RunConfig
from mien.errors import UsageError
from mien.progress import default_workers, ordered_map

UNGUIDED, GUIDED = "unguided", "guided"


def demo_recipe(store: Path, *, size: int, epochs: int, seed: int, weight: float) -> Recipe:
    """A narrow ResNet from scratch; guided and unguided differ in guidance.weight only."""
    return Recipe(
        data=DataConfig(store=store),
        augment=AugmentConfig(rotation=6.0, translate=0.05, scale=0.06, jitter=0.15),
        model=ModelConfig(
            backbone="resnet10t", size=size, stem_pool=False, output_stride=8, channels=[32, 64, 96, 128]
        ),
        guidance=GuidanceConfig(weight=weight),
        optim=OptimConfig(name="adamw", epochs=epochs, batch=16, lr=2e-3, weight_decay=0.05),
        run=RunConfig(seed=seed, accelerator="cpu"),
    )


def train_one(job: tuple[Recipe, Path]) -> None:
    """Train one of the runs in a process of its own, on half of the cores: two nets of this size gain little from two."""
    import torch

    from mien.training.loop import fit

    recipe, out = job
    torch.set_num_threads(max(1, default_workers() // 2))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # two bars would overwrite each other
        fit(recipe, out)


def demo(
    *,
    out: Path = Path("mien-demo"),
    faces: int = 1500,
    size: int = 64,
    epochs: int = 20,
    weight: float = 4.0,
    seed: int = 0,
) -> Path:
    """Synthesise faces, train unguided and guided, compare on unseen identities, write a report.

    Args:
        out: folder for the store, the two runs and report.html; a second call resumes.
        faces: how many synthetic faces; subjects are held out between train and test.
        size: side of a face in pixels.
        epochs: epochs of both trainings.
        weight: lambda of the guided run.
        seed: of faces and trainings.

    """
    from mien.evaluation.evaluate import evaluate
    from mien.report import report
    from mien.synthetic.synthesize import synthesize

    if faces < 200:
        raise UsageError(f"--faces {faces} is too few to train on; give at least 200.")
    began = time.perf_counter()
    store = out / "faces"
    synthesize(out=store, faces=faces, size=size, seed=seed, sheet=out / "faces.png")
    results: dict[str, dict[str, Any]] = {}
    print(f"\ntraining {UNGUIDED} (lambda 0) and {GUIDED} (lambda {weight:g}) side by side", flush=True)
    jobs = [
        (demo_recipe(store, size=size, epochs=epochs, seed=seed, weight=strength), out / name)
        for name, strength in ((UNGUIDED, 0.0), (GUIDED, weight))
    ]
    list(ordered_map(train_one, jobs, workers=min(2, default_workers()), chunk=1))
    for name in (UNGUIDED, GUIDED):
        print()
        results[name] = evaluate(out / name)
    page = report(out / UNGUIDED, out / GUIDED, out=out / "report.html")
    print_comparison(results)
    print(f"\n{time.perf_counter() - began:.0f} s. Open {page} for maps, curves and the paired test.")
    return page


def print_comparison(results: dict[str, dict[str, Any]]) -> None:
    """One row a score, unguided beside guided, baselines below."""
    last = [name for name in results[GUIDED]["alignment"] if name.startswith("layer-")][-1]
    unguided, guided = results[UNGUIDED], results[GUIDED]
    print(f"\nOn {guided['faces']} faces of unseen identities          unguided   guided")
    chance = 1 / len(guided["classes"])
    print(f"  {'accuracy of guessing':<44}{chance:>8.3f} {chance:>8.3f}")
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        print(
            f"  {name.replace('_', ' '):<44}{unguided['classification'][name]:>8.3f} {guided['classification'][name]:>8.3f}"
        )
    rows = {
        f"ATT-COS {last}": (last, "cosine"), "CAM-COS": ("cam", "cosine"), f"Pearson {last}": (last, "pearson"),
        f"energy in the AU map, {last}": (last, "energy"),
    }  # fmt: skip
    for title, (name, kind) in rows.items():
        print(f"  {title:<44}{_mean(unguided, name, kind):>8.3f} {_mean(guided, name, kind):>8.3f}")
    over = guided["excess"][last]["over"]
    shown = {
        "a uniform map": "baseline:uniform", "the mean cue of all faces": "baseline:mean",
        "the class-mean cue": over, "the face's own cue (ceiling)": "ceiling",
    }  # fmt: skip
    print("  what other maps score in cosine")
    for title, name in shown.items():
        print(f"    {title:<42}{_mean(unguided, name, 'cosine'):>8.3f} {_mean(guided, name, 'cosine'):>8.3f}")
    print("  what ATT-COS is beyond the class-mean cue, which never saw the face")
    for name, result in results.items():
        score = result["excess"][last]["scores"]["cosine"]
        between = " [{:+.3f}, {:+.3f}]".format(*score["interval"]) if score["interval"] else ""
        print(f"    {name:<42}{score['class_mean']:>+8.3f}{between}")
    print("  attention against a wrong cue, in cosine")
    wrong = {"another face of the class": "mismatched:same_class", "another expression": "mismatched:other_class"}
    for title, name in wrong.items():
        print(f"    {title:<42}{_mean(unguided, name, 'cosine'):>8.3f} {_mean(guided, name, 'cosine'):>8.3f}")
        perfect = f"{name}:perfect"
        print(
            f"    {'  a perfect map there':<42}{_mean(unguided, perfect, 'cosine'):>8.3f} {_mean(guided, perfect, 'cosine'):>8.3f}"
        )


def _mean(results: dict[str, Any], name: str, kind: str) -> float:
    value = results["alignment"][name][kind]["class_mean"]
    return float("nan") if value is None else float(value)
