"""Settings as text become values; those of the wrong type are one plain line: what was given, what is wanted, the nearest name."""

from __future__ import annotations

import argparse
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mien.errors import UsageError

WORDS: dict[Any, str] = {
    int: "whole number", float: "number", bool: "truth value", str: "text", Path: "path", Any: "value",
}  # fmt: skip


def wrong_value(name: str, value: Any, kind: Any, source: str = "") -> str:
    """One sentence or more on a value that is not of the type `kind`; `source` says where it came from."""
    parts = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    parts = tuple(part for part in parts if part is not types.NoneType)
    choices = [str(choice) for part in parts if typing.get_origin(part) is Literal for choice in typing.get_args(part)]
    if choices and bool in parts:
        choices = ["true", "false", *choices]
    shown = "null" if value is None else f"'{short(value)}'"
    if choices:
        near = difflib.get_close_matches(short(value), choices, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"{name}: unknown value {shown}.{hint} Valid: {', '.join(choices)}."
    wanted = "neither true nor false" if parts == (bool,) else f"no {_in_words(kind)}"
    return f"{name}: {shown} is {wanted}{f' (from {source})' if source else ''}."


def _in_words(kind: Any, many: bool = False) -> str:
    """A type in words: list[int] | None is "list of whole numbers"."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kept = [
            part for part in parts if part is not types.NoneType and (part not in (bool, int) or float not in parts)
        ]
        return " or ".join(_in_words(part, many) for part in kept)
    if origin in (list, Sequence):
        return f"list{'s' * many} of {_in_words(parts[0], many=True)}"
    if origin is dict:
        return f"mapping{'s' * many} of names to {_in_words(parts[1], many=True)}"
    return WORDS.get(kind, str(kind)) + "s" * many


def escaped(text: str) -> str:
    r"""Text for a terminal: control characters, which could move the cursor or hide a name, stand there as `\x1b`."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def short(value: Any, most: int = 120) -> str:
    """A value as one line of at most `most` characters, control characters escaped."""
    text = escaped(" ".join(f"{value}".split())[: 4 * most])
    return text if len(text) <= most else f"{text[: most - 3]}..."


class Range(NamedTuple):
    """Where a number lies; either end may be left out."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number, or every number in lists and mappings, lies there; NaN does not. Anything else has no range."""
        if isinstance(value, Mapping):
            return all(map(self.holds, value.values()))
        if isinstance(value, list | tuple):
            return all(map(self.holds, value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low, high = (f"{int(end)}" if end == int(end) else f"{end:g}" for end in (self.low, self.high))
        if not (self.open_low or self.open_high):
            return f"between {low} and {high}"
        return f"{'above' if self.open_low else 'at least'} {low} and {'below' if self.open_high else 'at most'} {high}"


NUMBER = re.compile(r"[-+]?(([1-9]\d*|0+)(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.?(inf|nan)", re.IGNORECASE)
"""A number as people write it. YAML 1.1 also reads 1:30 as 90, 017 as 15 and 1_0 as 10."""


def plain_numbers(
    given: Mapping[str, Any],
    kinds: Mapping[str, Any],
    where: str = "",
    source: str = "",
    written: Mapping[str, Any] | None = None,
) -> None:
    """UsageError for text where a number belongs that YAML would read as another one than is written there.

    Args:
        given: values by key, as `from_text` and `sections_of` read them.
        kinds: type of every key.
        where: what the line begins with, for example "recipe.yaml: ".
        source: what stands before a key where the value came from, "--" for an option.
        written: values as the user wrote them, where `given` is not that.

    """
    for key, value in given.items():
        if not (str in leaf_types(kinds[key]) or Path in leaf_types(kinds[key]) or Any in leaf_types(kinds[key])):
            words = [word for word in _texts(value) if word.lower() not in ("true", "false", "null", "none", "")]
            choices = [str(choice) for choice in leaf_types(kinds[key])]
            if any(not NUMBER.fullmatch(word) and word not in choices for word in words):
                raise UsageError(where + wrong_value(key, (written or given)[key], kinds[key], source and source + key))


def leaf_types(kind: Any) -> list[Any]:
    """The plain types, and the words of a Literal, that a type is made of; without the keys of mappings."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        parts = parts[1:]
    return [leaf for part in parts for leaf in leaf_types(part)] if parts else [kind]


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


@contextmanager
def told_where(where: str) -> Iterator[None]:
    """What is wrong with settings is told with the place that they came from; numbers that no float holds, too."""
    try:
        yield
    except UsageError as error:
        known = str(error).startswith(where)
        raise UsageError(str(error) if known else f"{where}: {error}") from error
    except (OverflowError, TypeError, ValueError, KeyError, RecursionError) as error:
        raise UsageError(f"{where}: {short(error)}.") from error


@contextmanager
def plain_words(
    kinds: Mapping[str, Any], given: Mapping[str, Any], where: str = "", names: Mapping[str, str] = {}, source: str = ""
) -> Iterator[None]:
    """Turn the parser's error into a UsageError of one plain line.

    Args:
        kinds: type of every key that is parsed.
        given: values as the user wrote them, by key; those missing are read from the parser's message.
        where: what the line begins with, for example "recipe.yaml: ".
        names: how a key is called in the line, by key.
        source: what stands before a key where the value came from, "--" for an option.

    """
    try:
        yield
    except argparse.ArgumentError as error:
        text = " ".join(str(error).split())
        found = re.search(r'key "([\w.]+)"', text)
        key = found[1] if found else ""
        if key not in kinds:
            raise UsageError(f"{where}{short(text.rstrip('.'), 400)}.") from error
        got = re.findall(r"(?:Got|Given) value: (.+?)(?= - Expected|$)", text)
        value = given.get(key, got[-1] if got else "")
        line = wrong_value(names.get(key, key), value, kinds[key], source and source + key)
        raise UsageError(where + line) from error


def option_values(words: Sequence[str]) -> dict[str, str]:
    """What stands behind each option: ["--a.b", "3", "--c=4"] is {"a.b": "3", "c": "4"}; the last of several counts."""
    given = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            given[name] = value if equals else following
    return given


MOST_TEXT, DEEPEST = 2**20, 30
"""Bytes of a settings file, and lists and mappings within each other in it."""


def settings_text(path: Path, what: str, shipped: str) -> str:
    """Text of a recipe or cfg, `what`; UsageError of one line for anything but a small text file."""
    there = f"Shipped ones lie in {shipped}."
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give a {what} file. {there}")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is no file but a pipe or a device; give a {what} file. {there}")
        if path.stat().st_size > MOST_TEXT:
            raise UsageError(f"{path} has {path.stat().st_size} bytes; a {what} has {MOST_TEXT} at most.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{what} not found: {path}. {there}") from error
    except (OSError, ValueError) as error:  # no UTF-8, or a NUL in the name
        remedy = "; save it as UTF-8" if isinstance(error, UnicodeError) else ""
        raise UsageError(f"cannot read {path}: {error}{remedy}.") from error


def sections_of(text: str, source: str) -> dict[str, Any]:
    """Mapping of a recipe's YAML text; one clear line, which names `source`, for bad syntax or text that is no mapping."""
    data = from_text(text, source)
    if not isinstance(data, dict):
        raise UsageError(f"{source} must hold sections such as data:, model:, optim:.")
    return data


def from_text(text: str, source: str) -> Any:
    """What YAML text holds: lists, mappings with text as keys, true, false, null, plain numbers and text.

    Numbers are those that JSON has: 1:30 and 017, which YAML 1.1 reads as 90 and 15, stay text.

    Raises:
        UsageError: bad syntax, a key that stands twice, an alias (a few bytes of them make gigabytes), or lists in lists
            without end.

    """
    import yaml

    try:
        return _plain(yaml.compose(_shallow(text, source), Loader=yaml.SafeLoader), source)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is not valid YAML: {' '.join(str(error).split())[:400]}.") from error
    except ValueError as error:  # a character that is none
        raise UsageError(f"{source} is not valid YAML: {' '.join(str(error).split())[:400]}.") from error


def _shallow(text: str, source: str) -> str:
    """The text, where it has no alias and is not nested without end: found before anything is built from it."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise UsageError(
                f"{source}: line {_line(event)} refers to '&{event.anchor}'; write the value itself there."
            )
        if depth > DEEPEST:
            raise UsageError(f"{source}: line {_line(event)} is nested deeper than {DEEPEST} levels.")
    return text


def _line(part: Any) -> int:
    """Where a YAML event or node begins, from 1."""
    return int(part.start_mark.line) + 1


def _plain(node: Any, source: str) -> Any:
    """The value of a YAML node."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_plain(part, source) for part in node.value]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = _line(key)
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{source}: line {line} has a key that is no text.")
            if key.value in found:
                raise UsageError(f"{source}: line {line} has '{key.value[:80]}' a second time; keep one of both.")
            found[key.value] = _plain(value, source)
        return found
    return None if node is None else _scalar(node.value, node.tag)


def _scalar(text: str, tag: str) -> Any:
    kind = tag.rsplit(":", 1)[-1]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    if kind == "int" and re.fullmatch(r"[-+]?(0|[1-9]\d{0,400})", text):
        return int(text)
    if kind == "float" and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return float(text)
    if kind == "float" and text.lower().lstrip("+-") in (".inf", ".nan"):
        return float(text.lower().replace(".", ""))
    return text
