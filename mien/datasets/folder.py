"""Pictures in folders named after expressions: ``root[/split]/class/**/*.png``, and pictures whose names say it all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mien.data.arrow import Skipped
from mien.datasets import boxes, ckplus, voc
from mien.datasets.table_cells import POLARITY
from mien.datasets.tables import unread
from mien.datasets.words import (
    Labels,
    find_expression,
    find_split,
    fold_number,
    label_remedy,
    named,
    read_labels,
    skip_pairs,
    split_in_name,
    splits_of,
    unknown_expression,
)
from mien.errors import DataError, UsageError
from mien.files import IMAGE_SUFFIXES, folders, listing, walk
from mien.schema import Record

OTHERS_ARE = "the other folders are expressions:"
"""In the message on a folder that is none among others that are."""


def records(
    root: Path, *, labels: str | None = None, expression_pattern: str | None = None
) -> Iterator[Record | Skipped]:
    """Every picture below ``root[/split]/class/`` or ``root/class/split/``, sorted by path; id = path relative to `root`.

    Without split folders everything is "train". Folders of folds (``fold_1/happy``) are train, too, with the attribute `fold`; those
    called positive, negative and neutral give the attribute `polarity`. `labels` are ``folder=expression`` pairs for numbers and
    foreign words, or the name of a numbering (`words.NUMBERINGS`); ``folder=skip`` leaves a class out. With an `expression_pattern`
    (see `names`) every picture below `root` is taken, whatever its folder; "ckplus" takes those that have an emotion or FACS file
    (`ckplus`). Pictures with boxes as YOLO or Pascal VOC want them are read too (`boxes`, `voc`).

    UsageError for a class folder whose name is no expression. What is left behind (pictures outside of class folders, folders
    beside the splits, files that are no pictures, links that lead nowhere) is skipped and listed.
    """
    root, words = Path(root), read_labels(labels)
    if not root.is_dir():
        hint = ": a table is read by `mien prepare table`" if root.is_file() and not unread(root) else ""
        raise DataError(f"folder '{root}' does not exist{' (it is a file)' if root.is_file() else ''}{hint}.")
    beside = ckplus.find_files(root) if expression_pattern == "ckplus" else {}
    if any(beside.get(end) for end in ckplus.ENDS[:2]):
        yield from ckplus.records(root, beside)
    elif expression_pattern is not None and expression_pattern != "ckplus":
        yield from _flat(root)
    elif boxes.is_yolo(root):
        yield from boxes.records(root, words)
    elif voc.is_voc(root):
        yield from voc.records(root, words)
    else:
        yield from _in_class_folders(root, words)


def _in_class_folders(root: Path, words: Labels) -> Iterator[Record | Skipped]:
    found, left = _class_folders(root, words)
    polar = {name for _, name, _ in found} - {"Neutral"} in ({"Positive"}, {"Negative"}, {"Positive", "Negative"})
    for split, name, folder in found:
        for path in walk(folder):
            item = _picture(path, root, split, None if polar else name)
            if isinstance(item, Record):
                number = fold_number(folder.parent.name) if folder.parent.parent == root else None
                known: dict[str, str | float] = {} if number is None else {"fold": number}
                item = item._replace(attributes=known | ({"polarity": name} if polar else {}))
            yield item
    yield from left


def _picture(path: Path, root: Path, split: str, name: str | None) -> Record | Skipped:
    key = path.relative_to(root).as_posix()
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return Skipped(key, f"not a picture file ('{path.suffix}'){_hidden(path)}")
    return Record(key, path, split=split, expression=name)


def _hidden(path: Path) -> str:
    """What to do with a file that is a picture and is not named so (Yale's subject01.happy); empty for others."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return ""
    kind = next((suffix for mark, suffix in FIRST_BYTES.items() if head.startswith(mark)), None)
    return "" if kind is None else f", but a picture: rename it, e.g. '{path.name}{kind}'"


FIRST_BYTES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def _class_folders(root: Path, words: Labels) -> tuple[list[tuple[str, str, Path]], list[Skipped]]:
    """(split, expression, folder) of every class folder, and what lies beside them; all names are checked first."""
    left: list[Skipped] = []
    inside = folders(root)
    splits = _split_folders(inside) | _fold_folders(inside)
    pairs = [(splits[folder], child) for folder in splits for child in folders(_inner(folder))]
    if splits:
        left += [_beside(folder, root, "beside the split folders") for folder in inside if folder not in splits]
        left += [entry for folder in splits for entry in _loose(_inner(folder), root)]
    else:
        words_of_splits = splits_of(child.name for folder in inside for child in folders(folder))
        pairs = [pair for folder in inside for pair in _of_class(folder, root, words_of_splits, left)]
    left += _loose(root, root, pictures_only=True)
    found, unknown = [], []
    named_by = [
        (split, folder, folder.parent.name if find_split(folder.name) and not splits else folder.name)
        for split, folder in pairs
    ]
    polar = {word.lower() for *_, word in named_by} - {"neutral", "neu"}
    polar = polar if polar <= {*POLARITY} else set()
    for split, folder, word in named_by:
        name = POLARITY[word.lower()] if polar else named(word, words)
        if name is None:
            unknown.append((folder.relative_to(root), word))
        elif not name:
            left.append(_beside(folder, root, "left out by --labels"))
        else:
            found.append((split, name, folder))
    if unknown:
        path, word = unknown[0]
        some = {word for _, word in unknown}
        elsewhere = "; where names of pictures say it, --expression-pattern finds it; a table of labels is read by mien prepare table"
        remedy = f"; {label_remedy(some)}" if found or len(some) > 1 or word.isdigit() else elsewhere
        if len({name for _, name, _ in found}) > len(some):
            remedy = (
                f"; {OTHERS_ARE} leave it out with --labels {skip_pairs(some)}, or say what it means in place of skip"
            )
        raise UsageError(f"class folder '{path}' of '{root}': {unknown_expression(word)}{remedy}.")
    if not found:
        loose = f"{len(left)} pictures lie loose{_in_names(left)}" if left else ""
        raise DataError(
            f"no class folders in '{root}': expected [train|valid|test/]<expression>/*.png{f'; {loose}' if loose else ''}."
        )
    return found, [entry for entry in left if entry.id]


def _is_class(name: str) -> bool:
    return name.isdigit() or find_expression(name) is not None


def said_in_names(names: list[str]) -> list[str]:
    """The words of expressions in most names of pictures, the longest first; none where there are no two of them."""
    stems = [Path(name).stem for name in names]
    said = [next((w for w in re.findall(r"[A-Za-z]{3,}", stem) if find_expression(w)), None) for stem in stems]
    words = sorted({word for word in said if word}, key=lambda word: (-len(word), word))
    return words if 2 * sum(map(bool, said)) > len(stems) and len(words) > 1 else []


def _in_names(left: list[Skipped]) -> str:
    """How the class is found in the names of pictures: the option that would, where a word of most names is an expression."""
    if words := said_in_names([item.id for item in left]):
        return f": add --expression-pattern '({'|'.join(words)})', which their names hold"
    return "; --expression-pattern finds the class in their names"


def _split_folders(inside: list[Path]) -> dict[Path, str]:
    """Folder -> split, of those that are named so; else of all, where the name of each says one (x_train, x_test)."""
    known = splits_of(folder.name for folder in inside)
    found = {folder: known[folder.name] for folder in inside if folder.name in known}
    if found or any(find_expression(folder.name) for folder in inside):
        return found
    parts = [folder for folder in inside if any(_is_class(child.name) for child in folders(folder))]
    said = {folder: split for folder in parts if (split := split_in_name(folder.name)) is not None}
    return said if len(said) == len(parts) > 1 else {}


def _fold_folders(inside: list[Path]) -> dict[Path, str]:
    """Folders of folds with class folders in them, at least two: they are all train."""
    found = [folder for folder in inside if fold_number(folder.name) is not None]
    whole = [folder for folder in found if any(_is_class(child.name) for child in folders(folder))]
    return dict.fromkeys(whole, "train") if len(whole) == len(found) > 1 else {}


def _inner(folder: Path) -> Path:
    """A split's folder, or the one of the same split that is all it holds (``train/train``, ``Train/Train_Aligned_Faces``)."""
    children = folders(folder)
    same = len(children) == 1 and split_in_name(children[0].name) == (find_split(folder.name) or "")
    return children[0] if same else folder


def _of_class(folder: Path, root: Path, words: Mapping[str, str], left: list[Skipped]) -> list[tuple[str, Path]]:
    """(split, folder) of a class folder: itself, or the split folders in it; what lies beside those goes to `left`.

    `words` are the splits that the words of all class folders stand for: one class may lack a part.
    """
    children = folders(folder)
    splits = {child.name: words[child.name] for child in children if child.name in words}
    if not splits:
        return [("train", folder)]
    left += [_beside(child, root, "beside the split folders") for child in children if child.name not in splits]
    left += _loose(folder, root)
    return [(splits[child.name], child) for child in children if child.name in splits]


def _beside(folder: Path, root: Path, why: str) -> Skipped:
    """A folder that is not read; without a name where no picture is in it."""
    count = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in walk(folder))
    return Skipped(f"{folder.relative_to(root).as_posix()}/" if count else "", f"a folder {why}, with {count} pictures")


def _loose(folder: Path, root: Path, pictures_only: bool = False) -> list[Skipped]:
    """Files, and links that lead nowhere, directly in a folder."""
    files = [path for path in listing(folder) if not path.is_dir()]
    kept = [path for path in files if not pictures_only or path.suffix.lower() in IMAGE_SUFFIXES]
    return [Skipped(path.relative_to(root).as_posix(), "lies in no class folder") for path in kept]


def _flat(root: Path) -> Iterator[Record | Skipped]:
    """Every picture, its class not known yet; the first folder may be a split."""
    for path in walk(root):
        first = path.relative_to(root).parts[0]
        yield _picture(path, root, find_split(first) or "train", None)


def looks_like_class_folders(root: Path) -> bool:
    """Whether all folders of a folder are named after expressions, at least two."""
    names = [folder.name for folder in folders(root)]
    return len(names) > 1 and all(find_expression(name) for name in names)
