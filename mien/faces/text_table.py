"""Tables as text, in the forms that programs and spreadsheets write: encoding, separator and header are found out.

Datasets, landmark files and lists of labels are all read through `open_table`.
"""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

from mien.errors import DataError
from mien.files import IMAGE_SUFFIXES, refuse_special

SEPARATORS = ("\t", ";", "|", ",")
"""In the order in which they win where a line has as many of one as of another (commas are decimal signs, too)."""
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SAMPLE = 20
"""Lines that separator and header are found out from."""
LONGEST_CELL = 150
"""Lines of a quoted cell: numpy prints 68 points as 68."""
_SUFFIX = f"(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})"
PICTURE_THEN_REST = re.compile(rf"^\s*(.*?{_SUFFIX})(?:\s*:\s*|\s+)(?=\S)(.*)$", re.IGNORECASE)
"""A line of a list with blanks between its columns; the path may hold blanks itself."""
REST_THEN_PICTURE = re.compile(rf"^\s*([^\s/\\]+)\s+(.*{_SUFFIX})\s*$", re.IGNORECASE)
"""A line with one word in front of the path: "3 some folder/a.png"."""


class TextTable(NamedTuple):
    """A table, before its rows are read."""

    path: Path
    encoding: str
    separator: str | None
    """None: blanks."""
    header: tuple[str, ...] | None
    """Stripped; None for a table without one."""
    skip: int = 0
    """Lines above the table: comments, and the separator as Excel writes it."""
    word_first: bool = False
    """Whether a word stands in front of each path, in lists with blanks between columns."""

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, stripped cells) of every row that is not empty; DataError for what csv refuses."""
        with open(self.path, newline="", encoding=self.encoding, errors="replace") as file:
            reader = _split(islice(file, self.skip, None), self.separator, self.word_first)
            try:
                for line, cells in reader:
                    row = [cell.strip() for cell in cells]
                    if any(row):
                        yield line + self.skip, row
            except csv.Error as error:
                raise DataError(f"'{self.path}' is not a readable table ({error}).") from error

    def body(self) -> Iterator[tuple[int, list[str]]]:
        """Rows without the header."""
        return islice(self.rows(), 0 if self.header is None else 1, None)


def open_table(path: Path, header: bool | None = None) -> TextTable:
    """Find out how a text table is written; `header` says whether its first row names the columns, None finds that out.

    Encodings: UTF-8 with or without mark, UTF-16 (spreadsheets, PowerShell), otherwise Windows-1252, which Latin-1 is part of;
    one line on stderr tells the last. The separator is the most frequent of tab, ``;``, ``|`` and ``,`` in the first row; a
    table without any has blanks between its columns. A first row with a picture's file name or a number in it is no header.

    Raises:
        DataError: not found, empty, a spreadsheet, or no text.

    """
    encoding = text_encoding(path)
    with open(path, newline="", encoding=encoding, errors="replace") as file:
        found = [(number, line) for number, line in enumerate(islice(file, 5 * SAMPLE)) if line.strip()][:SAMPLE]
    lines = [line for _, line in found]
    if not lines:
        raise DataError(f"table '{path}' is empty.")
    above, separator = _above(lines)
    skip, lines = found[above][0] if above else 0, lines[above:]
    separator = separator or _separator(lines[0], lines)
    bare = TextTable(path, encoding, separator, None, skip, separator is None and _word_first(lines))
    first, second = [*(cells for _, cells in islice(bare.rows(), 2)), [], []][:2]
    named = header if header is not None else _names_columns(first, second)
    if not named:
        return bare
    return bare._replace(header=tuple(first[1:] if first[0] == "#" else [first[0].lstrip("# "), *first[1:]]))


def _above(lines: list[str]) -> tuple[int, str | None]:
    """How many lines stand above a table, and the separator that one of them says (``sep=;``).

    A line of comment begins with # and has not as many separators as the line below the comments; a header may begin with #, too.
    """
    if said := re.match(r'^"?sep=(.)"?\s*$', lines[0], re.IGNORECASE):
        return (1, said[1]) if len(lines) > 1 else (0, None)
    titles = _titles(lines)
    if titles:
        return titles, None
    comments = sum(1 for _ in takewhile(lambda line: line.lstrip().startswith("#"), lines))
    if not comments or comments == len(lines):
        return 0, None
    best = max(SEPARATORS, key=lines[comments].count)
    last, first = lines[comments - 1].lstrip("# "), lines[comments]
    header = last.count(best) == first.count(best) if best in first else len(last.split()) == len(first.split()) > 1
    return comments - header, None


def _titles(lines: list[str]) -> int:
    """Lines of a title above a table: at most three without any separator, above lines that all have as many of one separator."""
    for count in range(1, min(4, len(lines) - 2)):
        above, below = lines[:count], lines[count:]
        best = max(SEPARATORS, key=below[0].count)
        if any(sign in line for line in above for sign in SEPARATORS):
            return 0
        if below[0].count(best) and all(line.count(best) == below[0].count(best) for line in below[:SAMPLE]):
            return count
    return 0


def _word_first(lines: list[str]) -> bool:
    """Whether every line of a list has a word in front of its path, and not always the same, which may belong to the path."""
    found = [REST_THEN_PICTURE.match(line) for line in lines]
    words = {match[1] for match in found if match is not None}
    if any(number(match[2].split()[0]) is not None for match in found if match is not None):
        return False  # many numbers, and a name behind them
    return all(found) and (len(words) > 1 or all(number(word) is not None for word in words))


def _separator(first: str, lines: list[str]) -> str | None:
    plain = re.sub(r'"[^"]*"', "", first).rstrip()
    plain = plain.rstrip("".join(SEPARATORS)) or plain  # a.jpg, happy ;
    best = max(SEPARATORS, key=plain.count)
    if plain.count(best):
        return best
    spaced = len(first.split()) > 1 or any(PICTURE_THEN_REST.match(line) for line in lines)
    return None if spaced else ","


def _split(file: Iterator[str], separator: str | None, word_first: bool) -> Iterator[tuple[int, list[str]]]:
    if separator is not None:
        reader = csv.reader(_closed_quotes(file, separator), skipinitialspace=separator != "\t", delimiter=separator)
        for cells in reader:
            yield reader.line_num, cells
        return
    for number, line in enumerate(file, 1):
        if word_first and (found := REST_THEN_PICTURE.match(line)):
            yield number, [found[1], found[2]]
        else:
            found = PICTURE_THEN_REST.match(line)
            yield number, [found[1], *found[2].split()] if found else line.split()


def _closed_quotes(file: Iterator[str], separator: str) -> Iterator[str]:
    """Lines of a table; one that opens a quote which never closes loses it, as the quote would swallow the rows below.

    It never closes where none of the next lines closes it, or one of them has as many cells as the first line.
    """
    waiting: deque[str] = deque()
    lines = iter(lambda: waiting.popleft() if waiting else next(file, ""), "")
    width = None
    for line in lines:
        width = line.count(separator) if width is None else width
        if line.count('"') % 2 and next(csv.reader([line], delimiter=separator, skipinitialspace=True))[-1].endswith(
            "\n"
        ):
            waiting.extend(islice(file, LONGEST_CELL - len(waiting)))
            closing = next((k for k, later in enumerate(waiting) if later.count('"') % 2), None)
            if closing is None or any(waiting[k].count(separator) == width > 0 for k in range(closing)):
                line = line.replace('"', "")
        yield line


def _names_columns(first: list[str], second: list[str]) -> bool:
    """Whether a first row is a header: no picture's file name in it, and no number unless pictures begin below it."""
    if any(map(is_picture_name, first)):
        return False
    return all(number(cell) is None for cell in first) or any(map(is_picture_name, second))


def is_picture_name(cell: str) -> bool:
    """Whether a cell ends as the file name of a picture does."""
    return cell.lower().endswith(IMAGE_SUFFIXES)


def number(cell: str) -> float | None:
    """A cell as a number, with a decimal comma too; None for anything else (nan and inf are numbers)."""
    try:
        return float(cell)
    except ValueError:
        pass
    try:
        return float(cell.replace(",", ".")) if cell.count(",") == 1 and "." not in cell else None
    except ValueError:
        return None


def text_encoding(path: Path) -> str:
    """Encoding of a text file; DataError for one that is missing or no text."""
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
            for mark, name in MARKS.items():
                if head.startswith(mark):
                    return name
            if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
                raise DataError(f"'{path}' is a spreadsheet or an archive: save the table as CSV and give that.")
            if b"\0" in head and not _few_odd_bytes(head):
                odd, even = head[1::2].count(0), head[::2].count(0)
                if max(odd, even) < 0.3 * len(head[::2]):
                    raise DataError(f"'{path}' is no text: give a table as CSV, TSV, JSON lines or Parquet.")
                return "utf-16-le" if odd > even else "utf-16-be"
            decoder = codecs.getincrementaldecoder("utf-8")()
            decoder.decode(head)
            while block := file.read(2**20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except FileNotFoundError as error:
        raise DataError(f"table '{path}' does not exist.") from error
    except UnicodeDecodeError:
        _tell(path)
        return "latin-1" if _undefined(path) else "cp1252"
    return "utf-8"


def _few_odd_bytes(head: bytes) -> bool:
    """Whether a file's first bytes are text but for a stray zero byte or two."""
    return head.count(0) <= 2 and all(byte >= 32 or byte in b"\0\t\r\n" for byte in head)


def _undefined(path: Path) -> bool:
    """Whether a file has bytes that Windows-1252 gives no letter."""
    with open(path, "rb") as file:
        return any(set(block) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} for block in iter(lambda: file.read(2**20), b""))


_TOLD: set[Path] = set()


def _tell(path: Path) -> None:
    if path not in _TOLD:
        print(
            f"'{path}' is not UTF-8 and is read as Windows-1252 (Latin-1); if names look odd, save it as UTF-8.",
            file=sys.stderr,
        )
        _TOLD.add(path)
