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
START = Path("demo")
"""The shipped unguided net, trained on synthetic faces of other identities (tools/demo_net.py): both sides start from it."""


def demo_recipe(store: Path, *, size: int, epochs: int, seed: int, weight: float) -> Recipe:
    """Fine-tuning of the shipped unguided net; guided and unguided differ in guidance.weight only."""
    return Recipe(
        data=DataConfig(store=store),
        augment=AugmentConfig(rotation=6.0, translate=0.05, scale=0.06, jitter=0.15),
        model=ModelConfig(
            backbone="resnet10t", size=size, stem_pool=False, output_stride=8, channels=[16, 32, 64, 128],
            backbone_options={"zero_init_last": False}, initial=START,
        ),
        guidance=GuidanceConfig(weight=weight),
        optim=OptimConfig(name="adamw", epochs=epochs, batch=12, lr=7e-4, weight_decay=0.05),
        run=RunConfig(seed=seed, accelerator="cpu"),
    )  # fmt: skip


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
    faces: int = 1290,
    size: int = 48,
    epochs: int = 5,
    weight: float = 4.0,
    seed: int = 0,
) -> Path:
    """Synthesise faces, fine-tune one net unguided and guided, compare on unseen identities, write a report.

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
    print(
        f"\nfine-tuning one unguided net side by side: {UNGUIDED} (lambda 0) and {GUIDED} (lambda {weight:g})",
        flush=True,
    )
    jobs = [
        (demo_recipe(store, size=size, epochs=epochs, seed=seed, weight=strength), out / name)
        for name, strength in ((UNGUIDED, 0.0), (GUIDED, weight))
    ]
    list(ordered_map(train_one, jobs, workers=min(2, default_workers()), chunk=1))
    for name in (UNGUIDED, GUIDED):
        print()
        results[name] = evaluate(out / name)
    page = report(out / UNGUIDED, out / GUIDED, out=out / "report.html")
    print_comparison(results, out)
    print(f"\n{time.perf_counter() - began:.0f} s. Open {page} for maps, curves and the paired test.")
    return page


def print_comparison(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Accuracy with the test of what guidance cost, then every map beside its class-mean baseline, its ceiling and its excess."""
    from mien.report.numbers import compare
    from mien.report.runs import Group, load_run

    sides = [results[UNGUIDED], results[GUIDED]]
    faces, people = sides[0]["faces"], sides[0].get("subjects")
    print(f"\nOn {faces} faces of identities that no training saw{f' ({people} people)' if people else ''}; one seed")
    print(f"  {'':<40}{UNGUIDED:>24}{GUIDED:>24}")
    chance = 1 / len(sides[0]["classes"])
    print(f"  {'accuracy of guessing':<40}" + f"{chance:>24.3f}" * 2)
    for name in ("accuracy", "balanced_accuracy"):
        print(f"  {name.replace('_', ' '):<40}" + "".join(f"{side['classification'][name]:>24.3f}" for side in sides))
    groups = [Group(name, [load_run(out / name, name)]) for name in (UNGUIDED, GUIDED)]
    paired = compare(groups[0], groups[1], 0).differences["accuracy"]
    test, kept = paired.test, paired.kept
    assert kept is not None
    lost = "is ruled out" if kept.not_lower else "is not ruled out"
    print(
        f"  guided minus unguided, accuracy: {test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]; a loss of "
        f"{kept.margin:.2f} or more {lost} (p {kept.p_lower:.3f})"
    )
    last = [name for name in sides[1]["alignment"] if name.startswith("layer-")][-1]
    for title, name in (("ATT-COS, last layer", last), ("CAM-COS", "cam")):
        print(f"  {title:<40}" + "".join(_with_interval(side["alignment"][name]["cosine"]) for side in sides))
        blind = sides[1]["excess"][name]["over"]
        for words, row in (("its class-mean baseline", blind), ("its ceiling", "ceiling")):
            print(
                f"    {words:<38}"
                + "".join(f"{side['alignment'][row]['cosine']['class_mean']:>24.3f}" for side in sides)
            )
        print(
            f"    {'excess over the class-mean baseline':<38}"
            + "".join(_with_interval(side["excess"][name]["scores"]["cosine"], sign="+") for side in sides)
        )
    print(
        "  The class-mean baseline never saw the face: it is the mean cue of the training faces of a class. What a map scores\n"
        "  above it follows this face; a map below it says where such faces show the expression, not where this one does."
    )


def _with_interval(score: dict[str, Any], sign: str = "") -> str:
    value, ends = score["class_mean"], score.get("interval")
    if value is None:
        return f"{'-':>24}"
    between = f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]" if ends else ""
    return f"{f'{value:{sign}.3f}{between}':>24}"
