"""What a user could run instead, when a dataset cannot be read from a folder: another folder, another reader, a pattern."""

from __future__ import annotations

import contextlib
import inspect
import io
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mien.data.arrow import Skipped
from mien.datasets.ckplus import find_files
from mien.datasets.folder import OTHERS_ARE, looks_like_class_folders, said_in_names
from mien.datasets.names import people_preset, preset_of, with_names
from mien.datasets.tables import unread
from mien.datasets.words import expression_in, find_expression, find_split, letters, split_in_name
from mien.errors import MienError
from mien.files import IMAGE_SUFFIXES, listing, walk
from mien.schema import Record

Read = Callable[..., Iterator[Record | Skipped]]

DEPTH, FOLDERS, PARENTS = 4, 200, 4
"""How far a folder that would work is looked for."""
SETTLED = (
    "--au-scale",
    "--pictures ROOT",
    "--first-frame",
    "--fold none",
    "box_xywh",
    "say what the numbers mean",
    OTHERS_ARE,
)
"""Words of an error that says already what to add to the command."""
TRIED = ("folder", "table", "rafdb", "affectnet", "affwild2", "fer2013", "disfa", "bp4d", "audetnet")
"""Readers that are tried on a folder which the asked one cannot read."""


def remedy(error: str, dataset: str, root: Path, out: Path, own: Mapping[str, Any], readers: Mapping[str, Read]) -> str:
    """A sentence with a command that reads at least one face here; empty where none is found, or `error` says what to do."""
    root = Path(root)
    if not root.exists() or dataset not in readers:
        return ""
    command = _pattern(dataset, root, own)
    if command is None and any(word in error for word in SETTLED):
        return ""
    read, packed = readers[dataset], unread(root) if dataset != "table" and not _has_pictures(root) else ""
    command = command or _other_root(dataset, _below(root), own, read)
    if not packed:  # an archive here is nearer than a folder above, which may be another dataset
        command = command or _other_root(dataset, _above(dataset, root), own, read)
    command = command or _other_reader(dataset, root, own, readers)
    if command is None:
        told = packed or unread(root)
        return "" if told in error else told
    return f" Try: {' '.join(['mien prepare', *command, '--out', shlex.quote(str(out))])}"


def _has_pictures(root: Path) -> bool:
    return root.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in walk(root))


def _words(root: Path, own: Mapping[str, Any]) -> list[str]:
    words = ["--root", shlex.quote(str(root))]
    for name, value in own.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [shlex.quote(str(value))])
    return words


def _pattern(dataset: str, root: Path, own: Mapping[str, Any]) -> list[str] | None:
    """A preset, or the class folders' place in the path, where file names or folders further down say the expression."""
    if dataset not in ("folder", "fer2013") or not root.is_dir() or "expression_pattern" in own:
        return None
    names = _names(root)
    preset = preset_of(names)
    if preset is not None and not (preset == "ckplus" and not any(find_files(root).values())):
        return ["folder", *_words(root, {**own, "expression_pattern": preset})]
    people = [path for path in listing(root) if path.is_dir()]
    if any(split_in_name(path.name) for path in people):  # x_train and x_test are no two people
        return _deep_pattern(names, root, own)
    if len(people) > 1 and all(looks_like_class_folders(folder) for folder in people[:20]):
        found = {**own, "expression_pattern": "^[^/]+/([^/]+)/", "subject_pattern": "^([^/]+)/"}
        return ["folder", *_words(root, _people_only(found, {folder.name for folder in people}))]
    return _deep_pattern(names, root, own) or _flat_pattern(names, root, own)


NO_PEOPLE = ("fold", "part", "batch", "set", "split", "session", "k", "chunk", "shard", "images", "train", "test")
"""Words of numbered folders that are no people."""


def _people_only(found: dict[str, Any], folders: set[str]) -> dict[str, Any]:
    """The options, without a pattern for the subject where the folders are parts of a set (fold_1, fold_2)."""
    if all(set(letters(name)) & {*NO_PEOPLE} for name in folders):
        found = {key: value for key, value in found.items() if key != "subject_pattern"}
    return found


def _flat_pattern(names: list[str], root: Path, own: Mapping[str, Any]) -> list[str] | None:
    """The words in the names of pictures that lie in one folder, where nearly all names have one."""
    if not names or any("/" in name for name in names):
        return None
    words = said_in_names(names)
    return None if not words else ["folder", *_words(root, {**own, "expression_pattern": f"({'|'.join(words)})"})]


def _deep_pattern(names: list[str], root: Path, own: Mapping[str, Any]) -> list[str] | None:
    """Patterns where a folder further down is the class and the one around it a person: P001/Anger/1.jpg, aia/aia_anger/1.png."""
    paths = [name.split("/")[:-1] for name in names]
    depth = min(map(len, paths), default=0)
    for up in range(1, depth):  # the innermost folder first; of the outermost class folders are read as they are
        folders = {path[-up] for path in paths}
        said = {folder: expression_in(folder) for folder in folders}
        if len(set(said.values())) < 2 or None in said.values():
            continue
        who = next((k for k in range(up + 1, depth + 1) if len({path[-k] for path in paths}) > 1), None)
        around = set() if who is None else {path[-who] for path in paths}
        if (
            who is None
            or any(find_split(part) for path in paths for part in path[1:])
            or any(map(split_in_name, around))
        ):
            return None
        below = "/[^/]+" * up + "$"
        words = "|".join(sorted({word for folder in folders for word in letters(folder) if find_expression(word)}))
        whole = all(find_expression(folder) for folder in folders)
        found = {**own, "expression_pattern": f"([^/]+){below}" if whole else f"(?i)({words})[^/]*{below}"}
        found["subject_pattern"] = f"([^/]+){'/[^/]+' * (who - up)}{below}"
        return ["folder", *_words(root, _people_only(found, around))]
    return None


def _other_root(dataset: str, places: Iterable[Path], own: Mapping[str, Any], read: Read) -> list[str] | None:
    found = next((place for place in places if works(read, place, own)), None)
    if found is None:
        return None
    who = people_preset(_names(found)) if dataset == "folder" and "subject_pattern" not in own else None
    return [dataset, *_words(found, own if who is None else {**own, "subject_pattern": who})]


def _names(root: Path) -> list[str]:
    """Relative paths of the first pictures below a folder."""
    pictures = islice((path for path in walk(root) if path.suffix.lower() in IMAGE_SUFFIXES), 200)
    return [path.relative_to(root).as_posix() for path in pictures]


def _other_reader(dataset: str, root: Path, own: Mapping[str, Any], readers: Mapping[str, Read]) -> list[str] | None:
    name = next((name for name in TRIED if name != dataset and works(readers[name], root, own)), None)
    return None if name is None else [name, *_words(root, own)]


def _above(dataset: str, root: Path) -> list[Path]:
    """Folders above that may be the dataset's. A table is looked for everywhere below a folder, so for it there are none; for
    class folders those whose own folders are classes or splits.
    """
    if dataset == "table":
        return []
    above = list(root.resolve().parents)[:PARENTS]
    if dataset != "folder":
        return above
    known = (root.resolve(), *above)
    return [path.parent for path in known[:2] if find_expression(path.name) or find_split(path.name)]


def _below(root: Path) -> Iterator[Path]:
    """Folders below, the nearest first."""
    queue = deque([(root, 0)]) if root.is_dir() else deque()
    count = 0
    while queue and count < FOLDERS:
        folder, depth = queue.popleft()
        for path in listing(folder)[:FOLDERS]:
            if path.is_dir():
                count += 1
                yield path
                if depth + 1 < DEPTH:
                    queue.append((path, depth + 1))


def works(read: Read, root: Path, own: Mapping[str, Any]) -> bool:
    """Whether a reader yields a face from a folder among its first fifty entries, with these options."""
    if not set(own) <= set(inspect.signature(read).parameters) | {"subject_pattern", "expression_pattern"}:
        return False
    taken = {name: value for name, value in own.items() if name in inspect.signature(read).parameters}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            named = with_names(read(root, **taken), *map(own.get, ("expression_pattern", "subject_pattern", "labels")))
            return any(isinstance(item, Record) for item in islice(named, 50))
    except (MienError, OSError):
        return False
