"""Values of the wrong type in one plain line: what was given, what is wanted, the nearest name."""

from __future__ import annotations

import argparse
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

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
    shown = "null" if value is None else f"'{' '.join(str(value).split())}'"
    if choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
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
            raise UsageError(f"{where}{text.rstrip('.')}.") from error
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
