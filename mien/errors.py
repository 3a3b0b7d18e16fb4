"""Errors that a user can act on: one line that says what is wrong, where, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MienError(Exception):
    """Base of every error that the command line prints as one line."""

    exit_code = 1


class UsageError(MienError):
    """The command, recipe or argument is wrong (exit code 2)."""

    exit_code = 2


class DataError(MienError):
    """A file, folder or value on disk is wrong (exit code 1). One line, whatever stands in the cell that it quotes."""

    def __init__(self, text: str) -> None:
        line = " ".join(text.splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-250:]}")


LONGEST = 1400
"""Characters of a message; a cell that lacks its closing quote may hold a whole table."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UsageError:
    """Error for a name outside a table: the nearest valid name first, then all of them."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = f" Valid: {', '.join(names)}." if len(names) <= 30 else ""
    return UsageError(f"unknown {kind} '{name}'.{hint}{listed}")


class PictureError(Exception):
    """A picture that cannot be used; its text becomes the reason in `skipped.csv`."""
