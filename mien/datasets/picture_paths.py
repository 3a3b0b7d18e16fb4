"""From what a table says about a picture to the file: other people's folders, other suffixes, other case."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from mien.errors import DataError
from mien.files import IMAGE_SUFFIXES, listing, walk

SAMPLE = 200
"""Rows of a table that folder and path are found out from."""
AROUND = 30
"""Folders beside a table that are looked into."""


def clean(cell: str) -> str:
    """A path as a table has it, with / between folders and without drive, quotes, blanks around and ./ in front."""
    text = cell.strip().strip("'\"").strip().replace("\\", "/").removeprefix("file://")
    text = re.sub(r"^[A-Za-z]:(?=/)", "", text)
    while text.startswith("./"):
        text = text[2:]
    return text


class Pictures:
    """Finds pictures below `base` by the paths of a table, whose first `drop` parts belong to another computer."""

    def __init__(self, base: Path, drop: int, by_name: dict[str, Path] | None = None) -> None:
        self.base, self.drop = base, drop
        self.by_name = by_name
        """Lower-case name and stem -> the only picture below the base that has it; None where paths are read."""
        self.told = False
        self.cells: dict[str, str] = {}

    def name(self, cell: str) -> str:
        """The part of a path that lies below the base; UsageError where two paths would lead to one file."""
        text = clean(cell)
        if not self.drop:
            return text
        short = "/".join(_parts(text)[self.drop :]) or text
        if self.cells.setdefault(short, text) != text:
            raise DataError(
                f"'{self.cells[short]}' and '{text}' would both be '{short}' in '{self.base}': "
                "--pictures ROOT must be the folder that they have in common."
            )
        return short

    def find(self, cell: str) -> Path:
        """The file: as written, with letters in another case, or with another picture suffix; else as written."""
        if self.by_name is not None:
            word = _plain(_parts(clean(cell))[-1])
            return self.by_name.get(word) or self.by_name.get(Path(word).stem) or self.base / clean(cell)
        path = self.base / self.name(cell)
        if path.is_file():
            return path
        found = other_spelling(path)
        if found is None:
            return path
        if not self.told:
            self.told = True
            print(f"'{cell.strip()}' is not there, '{found.name}' is taken; so for others like it.", file=sys.stderr)
        return found


def _parts(text: str) -> list[str]:
    return [part for part in text.split("/") if part]


def _plain(name: str) -> str:
    """A name in lower case, its accents in one form: Macs write letters and accents apart."""
    return unicodedata.normalize("NFC", name).lower()


@lru_cache(maxsize=256)
def _names(folder: Path) -> dict[str, list[str]]:
    """Name as `_plain`, and stem, -> pictures of a folder."""
    found: dict[str, list[str]] = {}
    for path in listing(folder) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            number = [str(int(path.stem))] if path.stem.isdecimal() else []  # 17 for 00017.jpg
            for key in {_plain(path.name), _plain(path.stem), *number}:
                found.setdefault(key, []).append(path.name)
    return found


def other_spelling(path: Path) -> Path | None:
    """The only file of the folder with this name in another case, or with this stem and a picture's suffix."""
    names = _names(path.parent)
    word = _plain(path.name)
    stem = _plain(path.stem) if path.suffix.lower() in IMAGE_SUFFIXES else word
    found = names.get(word) or names.get(stem) or names.get(f"{stem}_aligned") or []
    return path.with_name(found[0]) if len(set(found)) == 1 else None


def find_base(cells: Sequence[str], beside: Path, root: Path, pictures: Path | None, table: Path) -> Pictures:
    """Where the pictures of a table lie: in `pictures`, else in the folder of the table or around it.

    The first parts of a path that no picture has here are dropped, as many for all rows. DataError with the option to give
    where no row leads to a picture.
    """
    sample = list(dict.fromkeys(clean(cell) for cell in cells))[:SAMPLE]
    first = beside if pictures is None else pictures
    best, hits = Pictures(first, 0), 0
    for base in [first] if pictures is not None else _around(beside, root):
        for drop, count in _hits(sample, base).items():
            if count > hits:
                best, hits = Pictures(base, drop), count
        if hits == len(sample) or (base == first and 2 * hits >= len(sample)):
            break
    if sample and not hits and (found := _by_names(sample, first if pictures is not None else root)) is not None:
        return found
    if sample and not hits:
        raise DataError(
            f"'{table}': none of the first {len(sample)} pictures is there, e.g. '{sample[0]}', looked for in and around "
            f"'{first}'; give the folder that their paths start in, --pictures ROOT."
        )
    if best.drop or best.base != first:
        shown = "/".join(_parts(sample[0])[best.drop :])
        print(f"pictures: '{sample[0]}' of '{table.name}' is read as '{best.base / shown}'.", file=sys.stderr)
    return best


def _by_names(sample: Sequence[str], root: Path) -> Pictures | None:
    """Pictures anywhere below a folder, by their bare names, where nearly all of a sample have just one there."""
    if not root.is_dir():
        return None
    counts: dict[str, list[Path]] = {}
    for path in walk(root):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            for word in {_plain(path.name), _plain(path.stem)}:
                counts.setdefault(word, []).append(path)
    names = {word: paths[0] for word, paths in counts.items() if len(paths) == 1}
    found = Pictures(root, 0, names)
    hits = sum(found.find(text).is_file() for text in sample)
    if 10 * hits < 9 * len(sample):
        return None
    print(
        f"pictures: found below '{root}' by their names, e.g. '{sample[0]}' as '{found.find(sample[0])}'.",
        file=sys.stderr,
    )
    return found


def _hits(sample: Iterable[str], base: Path) -> Counter[int]:
    """Number of leading parts dropped -> rows that then lead to a picture."""
    hits: Counter[int] = Counter()
    for text in sample:
        parts = _parts(text)
        for drop in range(len(parts)):
            path = base / ("/".join(parts[drop:]) if drop else text)
            if path.is_file() or other_spelling(path) is not None:
                hits[drop] += 1
                break
    return hits


def _around(beside: Path, root: Path) -> Iterator[Path]:
    """The table's folder, those between it and `root`, and the folders in all of these."""
    places = [beside]
    top = root if root.is_dir() else beside.parent  # labels/a.csv beside images/
    while places[-1] != top and top in places[-1].parents:
        places.append(places[-1].parent)
    yield from places
    yield from islice((path for place in places for path in listing(place) if path.is_dir()), AROUND)
