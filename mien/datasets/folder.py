"""Pictures in folders named after expressions: ``root[/split]/class/**/*.png``, and the names people give to them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from mien.data.arrow import Skipped
from mien.errors import DataError, UsageError
from mien.schema import EXPRESSIONS, Record

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif")

SPLIT_NAMES = {
    "train": "train", "training": "train", "train_set": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid", "val_set": "valid",
    "test": "test", "testing": "test", "test_set": "test",
}  # fmt: skip
"""What a split is called in the wild -> its name in SPLITS."""

SYNONYMS = {
    "Neutral": ("neutral", "ne", "neu", "natural", "calm"),
    "Happiness": ("happiness", "happy", "ha", "hap", "joy", "smile", "smiling"),
    "Surprise": ("surprise", "surprised", "su", "sur"),
    "Fear": ("fear", "fearful", "afraid", "fe", "scared"),
    "Anger": ("anger", "angry", "an", "ang"),
    "Disgust": ("disgust", "disgusted", "di", "dis"),
    "Sadness": ("sadness", "sad", "sa"),
    "Contempt": ("contempt", "contemptuous", "co", "con"),
}
"""Expression -> words for it in the folders and tables of published datasets, lower case."""

_BY_WORD = {word: name for name, words in SYNONYMS.items() for word in words}


def find_expression(word: str) -> str | None:
    """The expression that a word stands for ("happy", "Fearful", "03_sad"), None for anything else."""
    return _BY_WORD.get(re.sub(r"^[\d\W_]+(?=[A-Za-z])", "", word.strip()).lower())


def unknown_expression(word: str) -> str:
    """One line on a word that is no expression: the nearest one, or what to do about a bare number."""
    if word.strip().isdigit():
        return f"'{word}' is a number, and every dataset numbers its classes differently: use names"
    near = difflib.get_close_matches(word.lower(), _BY_WORD, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"'{word}' is no expression{hint} (names: {', '.join(EXPRESSIONS)})"


def records(root: Path, *, subject_pattern: str | None = None) -> Iterator[Record | Skipped]:
    """Every picture below ``root[/split]/class/``, sorted by path; id = path relative to `root`.

    Without split folders everything is "train". `subject_pattern` is a regular expression with one group, searched in
    the relative path, whose match is the subject. UsageError for a class folder whose name is no expression; a file
    that is no picture is skipped and listed.
    """
    root = Path(root)
    try:
        subject = re.compile(subject_pattern) if subject_pattern else None
    except re.error as error:
        raise UsageError(f"subject pattern '{subject_pattern}' is no regular expression: {error}.") from error
    if subject is not None and subject.groups != 1:
        raise UsageError(f"subject pattern '{subject_pattern}' must have exactly one group, e.g. '(S\\d+)_'.")
    for split, name, folder in _class_folders(root):
        for path in sorted(folder.rglob("*")):
            if path.is_dir() or path.name.startswith("."):
                continue
            key = path.relative_to(root).as_posix()
            found = subject.search(key) if subject else None
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                yield Skipped(key, f"not a picture file ('{path.suffix}')")
            elif subject is not None and found is None:
                yield Skipped(key, f"the subject pattern '{subject_pattern}' does not match")
            else:
                yield Record(key, path, split=split, subject=found.group(1) if found else None, expression=name)


def _class_folders(root: Path) -> list[tuple[str, str, Path]]:
    """(split, expression, folder) of every class folder; all names are checked before the first picture is read."""
    if not root.is_dir():
        raise DataError(f"folder '{root}' does not exist.")
    folders = _folders(root)
    splits = {folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES}
    pairs = [(splits[folder], child) for folder in splits for child in _folders(folder)]
    if not splits:
        pairs = [("train", folder) for folder in folders]
    found = []
    for split, folder in pairs:
        name = find_expression(folder.name)
        if name is None:
            raise UsageError(
                f"class folder '{folder.relative_to(root)}' of '{root}': {unknown_expression(folder.name)}."
            )
        found.append((split, name, folder))
    if not found:
        raise DataError(f"no class folders in '{root}': expected [train|valid|test/]<expression>/*.png.")
    return found


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
