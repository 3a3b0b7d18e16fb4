"""What a run folder says of its probabilities: temperature, class offsets, and when to abstain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mien.errors import DataError, UsageError
from mien.files import file_sha256, weights_file
from mien.metrics.calibration import RANGE

if TYPE_CHECKING:
    from mien.models import Classifier

FILE = "calibration.json"
HEADS = ("votes", "labels")
"""Of data.targets both."""
LARGEST_OFFSET = 1e4
"""Of either sign; beyond it, and outside of RANGE, probabilities would not be numbers, or all be 0 and 1."""


class Calibration(NamedTuple):
    """How a model's logits become probabilities, and when it abstains: p = softmax((logits + offsets) / temperature)."""

    temperature: float = 1.0
    """Above 0."""
    threshold: float = 0.0
    """Top probability below which the model abstains."""
    offsets: tuple[float, ...] = ()
    """One a class in logit order; empty stands for zeros."""
    head: str = "votes"
    """Which of two heads answers: votes or labels. A net with one head has no choice."""
    fitted_on: str = ""
    """What it was fitted on, in words; empty where nobody calibrated."""

    def apply(self, model: Classifier) -> Calibration:
        """Let a model answer by the head, with the offsets added to its logits, so that all who ask see the same; itself."""
        import torch

        model.answer_by(self.head)
        device = next(model.parameters()).device
        model.offsets = torch.tensor(self.offsets, device=device) if self.offsets else None
        return self

    def as_json(self) -> dict[str, Any]:
        """For the metadata of what was made with it; offsets in logit order."""
        return {**self._asdict(), "offsets": list(self.offsets)}


def read_calibration(run: Path, classes: tuple[str, ...], name: str | None = None) -> Calibration:
    """What `mien calibrate` wrote for a run.

    Args:
        run: run folder.
        classes: of the run, in logit order.
        name: a file, or the name of one in the run folder without its .json; None takes the run's calibration.json, or
            temperature 1, no offsets and no abstaining where it was never calibrated.

    """
    file = run / FILE if name is None else Path(name)
    if name is None and not file.is_file():
        return Calibration()
    if name is not None and not file.is_file():
        file = run / f"{str(name).removesuffix('.json')}.json"
    if not file.is_file():
        others = [f"{one}: {words}" for one, words in calibrations_of(run).items()]
        raise DataError(
            f"there is no calibration '{name}': no such file, and none of that name in {run} "
            f"({'; '.join(others) or 'which has none'})."
        )
    again = f"run `mien calibrate` for {run} again"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        moved = {str(key): float(value) for key, value in kept.get("offsets", {}).items()}
        found = Calibration(float(kept["temperature"]), float(kept["threshold"]), head=str(kept.get("head", "votes")))
        found = found._replace(fitted_on=fitted_on(kept))
        owner = kept.get("checkpoint_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{file} is damaged, or no calibration ({error}); {again}.") from None
    low, high = RANGE
    if not (low <= found.temperature <= high and all(abs(value) <= LARGEST_OFFSET for value in moved.values())):
        raise DataError(f"{file} holds a temperature or offset out of range; {again}.")
    if found.head not in HEADS:
        raise DataError(f"{file} is for a head '{found.head}', which no net has ({', '.join(HEADS)}); {again}.")
    if not 0 <= found.threshold <= 1:
        raise DataError(f"{file} holds a threshold out of range; {again}.")
    if moved and set(moved) != set(classes):
        raise DataError(f"{file} has offsets of {', '.join(moved)}, the run has {', '.join(classes)}; {again}.")
    if owner is not None and owner != file_sha256(weights_file(run)):
        raise DataError(f"{file} belongs to other weights, those of run '{kept.get('run')}', not to {run}; {again}.")
    return found._replace(offsets=tuple(moved[name] for name in classes) if moved else ())


def calibrations_of(run: Path) -> dict[str, str]:
    """Names of the calibrations in a run folder -> what each was fitted on; the run's own first, damaged ones left out."""
    found = {}
    for file in sorted(run.glob("*.json"), key=lambda path: (path.name != FILE, path.name)):
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(kept, dict) and "temperature" in kept and "threshold" in kept:
                found[file.stem] = fitted_on(kept)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            continue
    return found


def fitted_on(kept: dict[str, Any]) -> str:
    """What a calibration file was fitted on: "2,550 validation faces, by the annotators' votes" or "120 photos of 60 people"."""
    if "fitted_on" not in kept:
        return ""
    head = {"votes": ", by the annotators' votes", "labels": ", by the labels"}.get(str(kept.get("head")), "")
    worse = ", worse than none on people left out" if kept.get("worse") else ""
    if kept.get("fitted_on") == "photos":
        who = "" if kept.get("photos_without_subject") else f" of {kept['people']} people"
        shown = ", ".join(kept["before"]["recall"])
        return f"{kept['photos']} photos{who} ({shown}){worse}"
    faces = kept.get("valid", {}).get("faces")
    return f"{f'{faces:,} ' if faces else ''}validation faces{head}{worse}"


def owner_of(run: Path) -> dict[str, Any]:
    """What a calibration file says of the weights that it belongs to."""
    return {"run": run.resolve().name, "checkpoint_sha256": file_sha256(weights_file(run))}


def check_out(out: Path) -> None:
    """UsageError unless a calibration file can be written there without another kind of file being lost."""
    if out.suffix != ".json" or out.is_dir():
        raise UsageError(f"--out {out} must be a file that ends in .json.")
