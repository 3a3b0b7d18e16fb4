"""Whether frames are counted from 0 or 1: decided over all subjects of a dataset against the number of labels, never for one."""

from __future__ import annotations

from collections.abc import Iterable

from mien.errors import UsageError


def first_number(found: Iterable[tuple[set[int], int]], what: str, asked: int | None = None) -> int:
    """Number of the first frame, 0 or 1, from (numbers of the files, number of labels) of every subject.

    A file 0 shows that counting begins at 0, one whose number is that of the labels that it begins at 1. `asked` goes before.

    Raises:
        UsageError: both are there, or neither, so that every label could be off by one; with the option that settles it.

    """
    if asked is not None:
        if asked not in (0, 1):
            raise UsageError(f"--first-frame {asked} must be 0 or 1.")
        return asked
    subjects = [(numbers, count) for numbers, count in found if numbers]
    zero = sum(0 in numbers for numbers, _ in subjects)
    last = sum(count in numbers for numbers, count in subjects)
    if zero and not last:
        return 0
    if last and not zero:
        return 1
    if not subjects:
        return 0
    why = f"{zero} of {len(subjects)} subjects have a file 0 and {last} one numbered as the last label"
    raise UsageError(
        f"{what}: {why}, so they may count from 0 or from 1, and every label would be off by one: look at a face and say which, "
        "--first-frame 0 or --first-frame 1."
    )
