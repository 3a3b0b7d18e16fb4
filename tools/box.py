"""Make the bundled model, mien/weights, from trained runs; every number of its card comes from the shipped weights.

    python tools/box.py EXPRESSION_RUN ACTION_UNIT_RUN --store stores/fer2013 --photos index.csv --columns image=file,subject=person

EXPRESSION_RUN is a run folder of `mien train`, ACTION_UNIT_RUN one of `mien audet train`. Weights are packed into a byte
each; then the packed ones are calibrated on validation faces, scored on test faces, and described by model-card.md. Offsets for
portraits are fitted on --photos (portraits.json), which `mien predict --calibration portraits` uses.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from mien.calibrate import calibrate
from mien.evaluation.evaluate import evaluate
from mien.files import write_atomic
from mien.report import report
from mien.training import checkpoint

BOX = Path(__file__).parent.parent / "mien" / "weights"
SHIPPED = (
    "config.yaml",
    "environment.json",
    "best.ckpt",
    "calibration.json",
    "portraits.json",
    "smiles.json",
    "model-card.md",
)
READ_UNITS = ("AU12",)
"""Units of the action-unit net that are known to carry over from synthetic faces to photos (docs/results.md): only they are
named in words."""
SMILES = "Happiness=0.9"
"""What smiles.json asks for: that few smiles are missed."""
LIMIT = 8_000_000
"""Bytes of all files together."""


def pack_run(run: Path, out: Path) -> None:
    """Copy what prediction reads of a run folder, weights packed, without places of the machine that trained it."""
    out.mkdir(parents=True)
    tensors, meta = checkpoint.load_tensors(run / "best.ckpt")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(("optimizer/", "average/"))}
    checkpoint.save_tensors(out / "best.ckpt", checkpoint.pack(weights), meta)
    facts = json.loads((run / "environment.json").read_text())
    if "store" in facts:
        facts["store"] = Path(facts["store"]).name
    if (run / "audet.cfg").exists():
        facts["read_units"] = READ_UNITS
    write_atomic(out / "environment.json", json.dumps(facts, indent=1))
    if (run / "audet.cfg").exists():
        shutil.copy(run / "audet.cfg", out)
        return
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["data"]["store"] = f"stores/{Path(settings['data']['store']).name}"
    settings["model"]["initial"] = None
    write_atomic(out / "config.yaml", yaml.safe_dump(settings, sort_keys=False))


def describe(folder: Path, store: Path, photos: Path, columns: str | None) -> None:
    """Calibrate, score and describe the packed weights in a copy; what is shipped of that comes back."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy)
        kept = calibrate(copy, store=store)
        evaluate(copy, store=store)
        report(copy, out=Path(place) / "report.html")
        card = (copy / "model-card.md").read_text()
        lines = [f"| {name} | {kept[name]:.3f} |" for name in ("temperature", "threshold")]
        lines += [
            f"| {part} {name} | {value:.3f} |" for part in ("valid", "test") for name, value in numbers(kept[part])
        ]
        card += "\n## Calibration\n\n| | |\n| --- | ---: |\n" + "\n".join(lines) + "\n"
        own = calibrate(copy, photos=photos, columns=columns, out=copy / "portraits.json")
        keen = calibrate(copy, photos=photos, columns=columns, recall=SMILES, out=copy / "smiles.json")
        write_atomic(copy / "model-card.md", card + portraits(own, keen))
        for name in SHIPPED:
            shutil.copy(copy / name, folder)


def portraits(own: dict[str, Any], keen: dict[str, Any]) -> str:
    """Section of the card on the offsets for portraits, without and with a recall of smiles that was asked for."""
    moved = ", ".join(f"{name} {value:+.2f}" for name, value in own["offsets"].items() if value)
    rows = [
        f"| {name} | {before:.3f} | {own['held_out']['recall'][name]:.3f} | {keen['held_out']['recall'][name]:.3f} |"
        for name, before in own["before"]["recall"].items()
    ]
    return (
        f"\n## Portraits\n\n`portraits.json`, used on request only: offsets {moved}, fitted on {own['photos']} posed photos of "
        f"{own['people']} people. Recall, each person by the offsets of the others:\n\n"
        "| | without | `portraits` | `smiles` |\n| --- | ---: | ---: | ---: |\n" + "\n".join(rows) + "\n"
        f"| calibration error | {own['before']['ece']:.3f} | {own['held_out']['ece']:.3f} | {keen['held_out']['ece']:.3f} |\n"
        f"\n`smiles.json` asks for {SMILES}: fewer smiles are missed, more neutral faces are misclassified. Faces are never marked "
        f"as unsure with either (threshold {max(own['threshold'], keen['threshold']):.2f}).\n"
    )


def numbers(part: dict[str, float]) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), value) for name, value in part.items() if isinstance(value, float)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("expression", type=Path)
    parser.add_argument("action_units", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--columns")
    parser.add_argument("--out", type=Path, default=BOX)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    pack_run(options.expression, options.out / "expression")
    describe(options.out / "expression", options.store, options.photos, options.columns)
    pack_run(options.action_units, options.out / "action_units")
    files = sorted(path for path in options.out.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(options.out)}" for path in files]
    write_atomic(options.out / "SHA256SUMS", "\n".join(sums) + "\n")
    total = sum(path.stat().st_size for path in files)
    print(f"{options.out}: {len(files)} files, {total / 1e6:.1f} MB")
    if total > LIMIT:
        raise SystemExit(f"more than {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
