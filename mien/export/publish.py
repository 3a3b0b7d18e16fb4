"""Verb `mien publish`: a run in the form of the Hugging Face Hub, in a folder or on the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from mien.errors import DataError, UsageError
from mien.files import WEIGHTS, weights_file, write_atomic
from mien.training import checkpoint
from mien.training.hub import ADDRESS, SUMS

__all__ = ["publish"]

BESIDE = ("calibration.json", "labels.json", "fusion.ckpt", "fusion.json", "quality.json")
"""Files of a run folder that predictions use, taken along where they are there."""
PROHIBITED = """\
> Recognises *expressions*, never what a person feels. Not for inferring emotions at work or in education (prohibited in the EU,
> Regulation (EU) 2024/1689, Article 5(1)(f)), nor for decisions about people, nor for guessing identity, race or gender.
"""


def publish(run: Path, *, to: str, licence: str = "other", public: bool = False) -> str:
    """Write a run as the Hub wants it: safetensors, settings, card with metadata and prohibited uses, SHA-256 of every file.

    Paths of this computer are left out. `mien.load("hf://OWNER/NAME@REVISION")` and `--run hf://…` read it.

    Args:
        run: run folder of `mien train`; its model card comes from `mien report`.
        to: a folder, or hf://OWNER/NAME, which needs a token of the Hub (`hf auth login` or HF_TOKEN).
        licence: of the weights, as the Hub names it (apache-2.0, cc-by-nc-4.0, …); the data may not allow every one.
        public: everyone may see a repository that this makes; otherwise its owner alone.

    Returns:
        The folder, or the address with its commit.

    """
    checkpoint.load_model(run)  # whole, finite, and of its settings
    if not to.startswith("hf:"):
        folder = Path(to)
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"--to {folder} is not empty; name another folder.")
        written = write(run, folder, licence)
        print(f"{folder}: {len(written)} files; `mien predict PHOTO --run {folder}` reads it")
        return str(folder)
    found = ADDRESS.fullmatch(to)
    if found is None or found[2]:
        raise UsageError(f"--to '{to}' is no address; write hf://OWNER/NAME, without a revision.")
    with tempfile.TemporaryDirectory() as place:
        write(run, Path(place), licence)
        address = _upload(Path(place), found[1], public)
    print(f"{address}; pass it to --run or mien.load")
    return address


def write(run: Path, out: Path, licence: str) -> list[str]:
    """The files of a published run in `out`; returns their names."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(
        out / WEIGHTS, weights_file(run).read_bytes()
    )  # as it is: calibration and fusion know it by its SHA-256
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    if "store" in facts:
        facts["store"] = Path(facts["store"]).name
    write_atomic(out / "environment.json", json.dumps(facts, indent=1))
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings["data"]["store"] = Path(settings["data"]["store"]).name
    for key in ("initial", "weights"):
        settings["model"][key] = None
    settings["model"]["pretrained"] = False
    write_atomic(out / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    for name in BESIDE:
        if (run / name).is_file():
            write_atomic(out / name, (run / name).read_bytes())
    write_atomic(out / "README.md", "".join(card(run, licence, facts["classes"])))
    names = sorted(path.name for path in out.iterdir() if path.name != SUMS)
    sums = [f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {name}" for name in names]
    write_atomic(out / SUMS, "\n".join(sums) + "\n")
    return [*names, SUMS]


def card(run: Path, licence: str, classes: list[str]) -> Iterator[str]:
    """Metadata that the Hub reads, prohibited uses, how to load it, and the card of `mien report` where there is one."""
    head = {
        "license": licence, "library_name": "mien", "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", "mien", "explainability"],
    }  # fmt: skip
    yield f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{PROHIBITED}\n"
    yield f'Classes: {", ".join(classes)}.\n\n```python\nimport mien\n\nmien.load("hf://OWNER/NAME@REVISION").predict("photo.jpg")\n```\n\n'
    file = run / "model-card.md"
    if file.is_file():
        yield file.read_text(encoding="utf-8")
    else:
        print(
            f"mien: {run} has no model card; `mien evaluate` and `mien report` write one with scores.", file=sys.stderr
        )
        yield f"# {run.name}\n\nNot scored.\n"


def _upload(folder: Path, name: str, public: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        hub.create_repo(name, private=not public, exist_ok=True)
        done = hub.upload_folder(repo_id=name, folder_path=folder, commit_message="mien publish")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"hf://{name} cannot be written ({reason}); check name, token and network.") from error
    return f"hf://{name}@{done.oid}"
