"""Runs on the Hugging Face Hub: `hf://OWNER/NAME@REVISION` in the place of a run folder."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from mien.errors import DataError, UsageError

ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?$")
"""Also as `Path` writes it, with one slash."""
SUMS = "SHA256SUMS"
PINNED = re.compile(r"[0-9a-f]{40}")


def fetched(run: Path | str) -> Path:
    """The run folder: as named, or the cached files of `hf://OWNER/NAME[@REVISION]`, compared with their SHA-256.

    Only what the address names is fetched, once; afterwards it is read from the cache of huggingface_hub (HF_HOME), also
    without network. Without a whole commit as revision a line on stderr says which commit it is. UsageError for an address of
    another form, DataError for what is not there, not whole, or not a run that `mien publish` wrote.
    """
    if not str(run).startswith("hf:"):
        return Path(run)
    found = ADDRESS.fullmatch(str(run))
    if found is None:
        raise UsageError(f"'{run}' is no address of a run; write hf://OWNER/NAME@REVISION.")
    name, revision = found[1], found[2]
    folder = _snapshot(name, revision)
    check_sums(folder, f"hf://{name}")
    if revision is None or not PINNED.fullmatch(revision):
        print(f"mien: hf://{name} is at commit {folder.name}; hf://{name}@{folder.name} pins it.", file=sys.stderr)
    return folder


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(snapshot_download(name, revision=revision, endpoint=os.environ.get("HF_ENDPOINT")))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"hf://{name} cannot be fetched ({reason}); check name, revision and network.") from error


def check_sums(folder: Path, name: str) -> None:
    """DataError unless every file of SHA256SUMS is there and is what was published."""
    sums = folder / SUMS
    if not sums.is_file():
        raise DataError(f"{name} has no {SUMS}: not a run that mien publish wrote.")
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, file = line.partition("  ")
        path = folder / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DataError(
                f"{name}: {file} is not what was published (SHA-256); delete it from the cache, fetch again."
            )
