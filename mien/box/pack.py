"""Pack trained runs as the bundled model, and describe what was packed; every number of its card is that of the packed weights."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from mien.errors import DataError
from mien.evaluation.evaluate import evaluate
from mien.files import read_json, write_atomic, write_json
from mien.models.packed import pack
from mien.predict.fusion import LEAST_WIDTH
from mien.report import report
from mien.training import checkpoint

LIMIT = 4_000_000
"""Bytes of all files together."""
SUMS = "SHA256SUMS"


def pack_run(run: Path, out: Path) -> None:
    """Copy what prediction reads of a run folder, weights packed into a byte each, without places of the machine that trained it."""
    out.mkdir(parents=True, exist_ok=True)
    for old in (path for path in out.iterdir() if path.is_file()):  # calibration and fusion of other weights
        old.unlink()
    tensors, meta = checkpoint.load_tensors(run / "best.ckpt")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(("optimizer/", "average/"))}
    checkpoint.save_tensors(out / "best.ckpt", pack(weights), meta)
    facts = read_json(run / "environment.json", "train again")
    if "store" in facts:
        facts["store"] = Path(facts["store"]).name
    write_json(out / "environment.json", facts)
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings["data"]["store"] = f"stores/{Path(settings['data']['store']).name}"
    settings["data"]["teachers"] = [Path(run).name for run in settings["data"].get("teachers", [])]
    settings["model"]["initial"] = None
    write_atomic(out / "config.yaml", yaml.safe_dump(settings, sort_keys=False))


def describe(folder: Path, store: Path, fusion: dict[str, Any], scored: dict[str, Any]) -> None:
    """Score the packed weights on the test faces of their store in a copy, and bring its model card back.

    Args:
        folder: packed run.
        store: aligned faces.
        fusion: what `build.fuse_run` found.
        scored: what `score.score` found on the test faces, end to end.

    """
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy)
        evaluate(copy, store=store)
        report(copy, out=Path(place) / "report.html")
        card = (copy / "model-card.md").read_text(encoding="utf-8")
        for name in ("calibration", "labels"):
            card += calibrated(name, json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
        write_atomic(folder / "model-card.md", card + fused(fusion) + hard_cases(scored))


def calibrated(name: str, kept: dict[str, Any]) -> str:
    """Section of the card on one calibration: two views, validation and test faces."""
    truth = "the annotators' majority" if kept.get("head") == "votes" else "the labels"
    lines = [f"| {key} | {kept[key]:.3f} |" for key in ("temperature", "threshold")]
    for part in (part for part in ("valid", "test") if part in kept):
        rows = ((key.replace("_", " "), value) for key, value in kept[part].items() if isinstance(value, float))
        lines += [f"| {part} {key} | {value:.3f} |" for key, value in rows]
    return (
        f"\n## Calibration `{name}`\n\nBy {truth}, two views of each face, no fusion.\n\n| | |\n| --- | ---: |\n"
        + "\n".join(lines)
        + "\n"
    )


def fused(facts: dict[str, Any]) -> str:
    """Section of the card on what the blendshapes add."""
    valid = facts["validation"]
    text = (
        "\n## Fusion with blendshapes\n\nWhere the face provider gives blendshapes (`mediapipe`) and the face is at least "
        f"{LEAST_WIDTH:.0f} px wide, they add to the logits of the votes' head. The {valid['faces']} validation faces (48 px) are "
        f"not: with a fusion of the other half their accuracy by the largest vote would be {valid['fused']:.3f} instead of "
        f"{valid['net alone']:.3f}.\n"
    )
    if "photos" not in facts:
        return text
    photos = facts["photos"]
    rows = [
        f"| {name} | {share:.3f} | {photos['fusion of other people'][name]:.3f} |"
        for name, share in photos["net alone"].items()
    ]
    return (
        f"{text}\nThe shipped fusion is fitted on the validation faces and on {photos['pictures']} posed portraits of "
        f"{photos['people']} people. Recall on these portraits, each person by a fusion of the other people:\n\n"
        "| | net alone | fused |\n| --- | ---: | ---: |\n" + "\n".join(rows) + "\n"
    )


def hard_cases(scored: dict[str, Any]) -> str:
    """Section of the card on faces that are hard to read."""
    truth = "majority of the annotators" if "majority of the annotators" in scored else "labels"
    rows = "".join(
        f"| {row} | {count} | {mean:.3f} [{low:.3f}, {high:.3f}] |\n"
        for row, (count, mean, low, high) in scored[truth]["hard"].items()
    )
    return (
        f"\n## Hard cases\n\nTest faces end to end, {scored['views']} views, by the {truth}; 95 % intervals. A face may stand in "
        "several rows. Children and old people were not measured: no labelled photos of them were at hand.\n\n"
        f"| faces | number | accuracy |\n| --- | ---: | ---: |\n{rows}"
    )


def sum_up(out: Path) -> None:
    """Write SHA256SUMS and tell the size; DataError beyond LIMIT."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != SUMS)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out).as_posix()}" for path in files]
    write_atomic(out / SUMS, "\n".join(sums) + "\n")
    total = sum(path.stat().st_size for path in files)
    print(f"{out}: {len(files)} files, {total / 1e6:.1f} MB")
    if total > LIMIT:
        raise DataError(f"{out} holds {total:,} bytes, more than {LIMIT:,}.")
