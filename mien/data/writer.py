"""Writing a store, a part at a time, so that a killed run goes on where it stopped."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from mien import __version__
from mien.data.arrow import (
    Skipped,
    intact_parts,
    map_part,
    read_info,
    read_json,
    same_settings,
    write_part,
)
from mien.data.fingerprint import fingerprint
from mien.data.shards import Coded, Coding, Part, coded, sweep, take_place
from mien.data.verify import mark_verified
from mien.errors import DataError, UsageError
from mien.files import file_sha256, replacing, write_json
from mien.schema import Record


def begin_adding(out: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """Turn a finished store, the content of whose `store.json` is `found`, into an interrupted one of `settings`.

    The finished one stays readable until the new one is: `store.json` is replaced last. What was skipped is forgotten, so
    that it is tried again.
    """
    if (out / "progress.json").is_file():  # adding was interrupted
        return
    parts = [{**part, "skipped": []} for part in found["parts"]]
    write_json(out / "progress.json", {**settings, "parts": parts})


SAVING = 0.05
"""Most of the time that may go into `progress.json`, which grows with the store: it is written again after a while only."""


class Writer:
    """Collects rows and flushes them as parts; `progress.json` lists the finished ones."""

    def __init__(self, out: Path, settings: dict[str, Any], most_rows: int, most_bytes: int, add: bool) -> None:
        self.out, self.settings, self.most_rows, self.most_bytes = out, settings, most_rows, most_bytes
        self.coding = Coding(settings["size"], settings["channels"], settings["encoding"])
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[Skipped] = []
        self.bytes = 0
        self.seen: set[str] = set()
        self.parts: list[dict[str, Any]] = []
        if (out / "progress.json").is_file():
            progress = read_json(out / "progress.json")
            same_settings(out, progress, settings, add)
            self.parts = intact_parts(out, progress)
        elif out.exists() and (not out.is_dir() or any(path.name != ".lock" for path in out.iterdir())):
            raise UsageError(f"'{out}' exists and is no prepared store: choose a new or empty folder for --out.")
        self._save_progress()

    def _save_progress(self) -> None:
        begun = time.monotonic()
        write_json(self.out / "progress.json", {**self.settings, "parts": self.parts})
        self.due = time.monotonic() + (time.monotonic() - begun) / SAVING

    def add(self, record: Record | Coded | Skipped | Part) -> None:
        """Keep one face, or note one that was skipped; an id that is there already is skipped. Full parts are written.

        A part that a worker wrote gets its place; its ids must be new.
        """
        if isinstance(record, Part):
            self._place(record)
            return
        if record.id in self.seen:
            record = Skipped(record.id, "id occurs twice")
        self.seen.add(record.id)
        face = coded(record, self.coding) if isinstance(record, Record) else record
        if isinstance(face, Skipped):
            self.skipped.append(face)
        else:
            self.rows.append(face.columns)
            self.bytes += len(face.columns["image"])
        if len(self.rows) >= self.most_rows or self.bytes >= self.most_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last part as a part of its own, and the progress file after it."""
        if not self.rows and not self.skipped:
            return
        rows, skipped = self.rows, self.skipped
        self.rows, self.skipped, self.bytes = [], [], 0  # a failed write is not tried twice by the `finally` above
        self.parts.append({**write_part(self.out / self._next_name(), rows), "skipped": skipped})
        self._save_progress()

    def _next_name(self) -> str:
        return f"part-{len(self.parts):05d}.arrow"

    def _place(self, part: Part) -> None:
        self.flush()
        self.parts.append({**take_place(self.out, part, self._next_name()), "skipped": part.skipped})
        if time.monotonic() >= self.due:
            self._save_progress()

    def stop(self) -> None:
        """Keep what is here, in the middle of the work."""
        self.flush()
        self._save_progress()
        self.tidy()

    def tidy(self) -> None:
        """Leave nothing behind when no row was written, so that a corrected command may use the same folder."""
        if any(part["rows"] for part in self.parts):
            return
        for name in [part["file"] for part in self.parts] + ["progress.json"]:
            (self.out / name).unlink(missing_ok=True)
        sweep(self.out, ())

    def finish(self) -> None:
        """Write the rest and the description, remove the progress file; DataError without any face."""
        skipped = [entry for part in self.parts for entry in part["skipped"]]
        rows = sum(part["rows"] for part in self.parts)
        if rows == 0:
            self.tidy()
            first = f" (first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
            raise DataError(f"no usable picture for the store '{self.out}': {len(skipped)} were skipped{first}.")
        with (
            replacing(self.out / "skipped.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([("id", "reason"), *skipped])
        parts = [{key: value for key, value in part.items() if key != "skipped"} for part in self.parts]
        content = {**self.settings, "mien": __version__, "rows": rows, "skipped": len(skipped), "parts": parts}
        content["skipped_sha256"] = file_sha256(self.out / "skipped.csv")
        content["fingerprint"] = fingerprint(map_part(self.out / part["file"]) for part in parts)
        write_json(self.out / "store.json", content)
        (self.out / "progress.json").unlink(missing_ok=True)
        sweep(self.out, parts)
        mark_verified(self.out, read_info(self.out))
