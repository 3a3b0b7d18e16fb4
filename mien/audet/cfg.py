"""The cfg language: {Sections} of [blocks] of key=value lines, read with every mistake told at once.

file    := (blank | comment | section)*
section := '{' NAME '}' block*        block   := '[' TYPE ']' entry*
entry   := KEY '=' VALUE              comment := '#' at the start of a line or behind white space, to its end
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from mien.errors import UsageError

Settings = TypeVar("Settings")


class Place(NamedTuple):
    """Where something stands: a line of a file, or an option of the command line (line 0)."""

    line: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Entry(NamedTuple):
    """The value of a key, as text."""

    value: str
    place: Place


class Block(NamedTuple):
    """[type] and its entries."""

    type: str
    entries: dict[str, Entry]
    place: Place


class Section(NamedTuple):
    """{name} and its blocks."""

    name: str
    blocks: list[Block]
    place: Place


class Mistake(NamedTuple):
    """One thing that is wrong, or a warning."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class CfgError(UsageError):
    """Every mistake of a cfg, one `path:line: message` a line, in the order of the file."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = sorted(set(mistakes), key=lambda mistake: mistake.place.line)
        count = len(self.mistakes)
        head = f"{count} mistakes in {self.mistakes[-1].place.source}:\n" if count > 1 else ""
        super().__init__(head + "\n".join(map(str, self.mistakes)))


class Wrong(Exception):
    """What is wrong with a value or a block; its place is known further up."""


def limited(default: Any = dataclasses.MISSING, *, least: float = -math.inf, most: float = math.inf) -> Any:
    """Field of a settings dataclass whose numbers lie in [least, most]; required without a default."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


LEGACY = {
    "batch_norm_dim": "no code ever read it",
    "gradient_loss_lambda": "read as gradient_loss_lambda_discr; write that",
}
"""Keys of older published cfgs: allowed, with a warning."""


def parse(text: str, source: str) -> tuple[list[Section], list[Mistake]]:
    """Sections of a cfg's text as they stand there, and what breaks the grammar."""
    sections: list[Section] = []
    mistakes: list[Mistake] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        place = Place(number, source)
        if not line:
            continue
        try:
            if line[0] in "{[":
                _open(line, place, sections)
            else:
                _entry(line, place, sections)
        except Wrong as wrong:
            mistakes.append(Mistake(place, str(wrong)))
    empty = [s for s in sections if not s.blocks and s.name != LOST]
    mistakes += [Mistake(s.place, f"section {{{s.name}}} is empty; it needs blocks, or leave it out.") for s in empty]
    return sections, mistakes


LOST = ""
"""Name of a section and type of a block whose header could not be read; what stands in them is not told again."""


def _open(line: str, place: Place, sections: list[Section]) -> None:
    """Begin a section or a block."""
    closing = {"{": "}", "[": "]"}[line[0]]
    found = re.fullmatch(re.escape(line[0]) + r"([^{}\[\]]*)" + re.escape(closing), line)
    name = found[1].strip() if found else LOST
    if line[0] == "{":
        twice = next((section for section in sections if name and section.name == name), None)
        sections.append(Section(LOST if twice else name, [], place))
        if twice:
            raise Wrong(f"section {{{name}}} stands in line {twice.place.line} already.")
    else:
        outside = not sections
        if outside:
            sections.append(Section(LOST, [], place))
        sections[-1].blocks.append(Block(name, {}, place))
        if outside:
            raise Wrong(f"block {line} stands outside a section; open one first, for example {{Encoder}}.")
    if not found:
        reason = f"text behind '{closing}'" if closing in line else f"no closing '{closing}'"
        raise Wrong(f"'{line}' is no header ({reason}); write {line[0]}name{closing} on a line of its own.")
    if not name:
        raise Wrong(f"'{line}' has no name.")


def _entry(line: str, place: Place, sections: list[Section]) -> None:
    """Put a key into the open block."""
    key, sign, value = (part.strip() for part in line.partition("="))
    if not sections or not sections[-1].blocks:
        where = "a block; put a [block] header before it" if sections else "a section"
        raise Wrong(f"'{line}' stands outside {where}.")
    entries = sections[-1].blocks[-1].entries
    if not sign:
        raise Wrong(f"'{line}' is no entry; write key=value (comments start with #).")
    if not key or not value:
        raise Wrong(f"'{line}' has no {'value' if key else 'key'}.")
    if key in entries:
        raise Wrong(f"{key} is set in line {entries[key].place.line} already.")
    entries[key] = Entry(value, place)


def render(sections: Sequence[Section]) -> str:
    """Text of sections, without comments; `parse` reads the same sections from it."""
    lines = []
    for section in sections:
        lines += [f"{{{section.name}}}", ""]
        for block in section.blocks:
            lines += [f"[{block.type}]", *(f"{key}={entry.value}" for key, entry in block.entries.items()), ""]
    return "\n".join(lines)


def settings_of(
    block: Block, kind: type[Settings], what: str, report: list[Mistake], warn: list[Mistake]
) -> Settings | None:
    """The block's entries as a settings dataclass, without those that are wrong; None where required ones are then missing.

    Mistakes go into `report`, warnings into `warn`.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, entry in block.entries.items():
        if key in LEGACY:
            warn.append(Mistake(entry.place, f"old key {key}: {LEGACY[key]}."))
            key = "gradient_loss_lambda_discr" if key == "gradient_loss_lambda" else key
        if key not in fields:
            if key not in LEGACY:
                report.append(Mistake(entry.place, unknown(f"key of {what}", key, fields)))
            continue
        try:
            limits = fields[key].metadata
            values[key] = _within(convert(entry.value, hints[key]), limits.get("least"), limits.get("most"))
        except Wrong as wrong:
            report.append(Mistake(entry.place, f"{key}={entry.value}: {wrong}"))
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    report += [Mistake(block.place, f"{what} needs the key {name}.") for name in required if name not in block.entries]
    return kind(**values) if set(required) <= set(values) else None


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that was probably meant."""
    names = {other.lower(): other for other in valid}
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return names[near[0]] if near else None


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """One line for a name outside a table, the nearest valid one first."""
    names = list(valid)
    near = nearest(name, names)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"unknown {what} '{name}'.{hint} Valid: {', '.join(names) or 'none'}."


def convert(text: str, hint: Any) -> Any:
    """The text as a value of the annotated type; Wrong says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _choice(text, arguments)
    if origin in (typing.Union, types.UnionType):
        for part in sorted(arguments, key=lambda part: part is str):
            try:
                return convert(text, part)
            except Wrong:
                continue
        raise Wrong(f"expected {' or '.join(_named(part) for part in arguments)}.")
    if origin is tuple:
        words = [word.strip() for word in text.split(",")]
        if arguments[-1] is not Ellipsis and len(words) != len(arguments):
            raise Wrong(f"expected {len(arguments)} values separated by commas, got {len(words)}.")
        return tuple(convert(word, arguments[0]) for word in words)
    if hint is type(None):
        return _choice(text, ("None",)) and None
    if hint is bool:
        return _choice(text, ("True", "False", "1", "0")) in ("True", "1")
    if hint in (int, float):
        return _number(text, hint)
    return Path(text) if hint is Path else text


def _choice(text: str, valid: Sequence[str]) -> str:
    if text not in valid:
        near = nearest(text, valid)
        raise Wrong(f"expected {' or '.join(valid)}." + (f" Did you mean '{near}'?" if near else ""))
    return text


LARGEST = 2**63 - 1
"""Of a number in a cfg; what is larger is no seed and no size."""


def _number(text: str, kind: type[int] | type[float]) -> int | float:
    try:
        value = kind(text)
    except ValueError as error:
        raise Wrong(f"expected {_named(kind)}.") from error
    if not abs(value) <= LARGEST:  # NaN is refused too
        raise Wrong("expected a finite number." if kind is float else f"expected {_named(kind)} up to {LARGEST:g}.")
    return value


def _named(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(typing.get_args(kind))
    names = {
        int: "an integer",
        float: "a number",
        bool: "True or False",
        type(None): "None",
        str: "text",
        Path: "a path",
    }
    return names.get(kind) or "a list with commas"


def _within(value: Any, least: float | None, most: float | None) -> Any:
    """The value, where all its numbers lie in the range."""
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if least is not None and number < least:
            raise Wrong(f"must be at least {least:g}.")
        if most is not None and number > most:
            raise Wrong(f"must be at most {most:g}.")
    return value
