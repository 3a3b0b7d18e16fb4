"""Mutated files for the fuzzers of other tests: the same seed gives the same damage."""

import random
from collections.abc import Callable
from pathlib import Path

from mien.errors import MienError

CELLS = (
    "", "nan", "inf", "-inf", "1e400", "-1", "0", "9" * 400, "9223372036854775808", "x", "\0", "é", "\u202e", "=1+1", '"', "''",
    "[", "{}", "null", "true", "1:30", "0x10", "1_0", "-0.0", "1,5", "../../x", "/dev/zero", "\\", " ", "AU99", "Joy", "NaN%",
)  # fmt: skip
"""What stands in a cell where a number, a name or a path belongs."""


def damaged_bytes(data: bytes, draws: random.Random) -> bytes:
    """Bits flipped, bytes exchanged, a piece cut out, doubled, zeroed or put first, or the end cut off."""
    found = bytearray(data)
    for _ in range(draws.randint(1, 4)):
        if not found:
            break
        at, how = draws.randrange(len(found)), draws.randrange(8)
        length = min(draws.choice((1, 2, 4, 16, 256)), len(found) - at)
        if how <= 2:
            found[at] ^= 1 << draws.randrange(8)
        elif how == 3:
            found[at : at + length] = draws.randbytes(length)
        elif how == 4:
            del found[at : at + length]
        elif how == 5:
            found[at:at] = found[at : at + length]
        elif how == 6:
            found[at : at + length] = draws.choice((b"\0", b"\xff")) * length
        else:
            del found[at:]
    return bytes(found)


def damaged_text(data: bytes, draws: random.Random) -> bytes:
    """Cells of a table exchanged for what cannot stand there, lines lost, doubled or swapped, or damage to its bytes."""
    if draws.random() < 0.25:
        return damaged_bytes(data, draws)
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(draws.randint(1, 4)):
        k, how = draws.randrange(len(lines)), draws.randrange(5)
        separator = max((",", ";", "\t", " ", ":"), key=lines[k].count)
        cells = lines[k].split(separator)
        if how <= 1:
            cells[draws.randrange(len(cells))] = draws.choice(CELLS)
            lines[k] = separator.join(cells)
        elif how == 2:
            lines[k] = separator.join(cells[: draws.randrange(len(cells) + 1)])
        elif how == 3:
            lines.insert(draws.randrange(len(lines)), lines[k])
        elif len(lines) > 1:
            del lines[k]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def refusals(
    attempt: Callable[[], object], write: Callable[[random.Random], str], count: int, seed: int
) -> tuple[int, list[str]]:
    """How often `attempt` is refused after `write` has damaged its input, and the lines; anything but a MienError comes through."""
    draws, told = random.Random(seed), []
    for _ in range(count):
        done = write(draws)
        try:
            attempt()
        except MienError as error:
            line = str(error)
            assert "\n" not in line, (done, line)
            assert len(line) < 1500, (done, line[:200])
            told.append(line)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {done}: {type(error).__name__}: {error}") from error
    return len(told), told


def spoiler(files: list[Path], mutate: Callable[[bytes, random.Random], bytes]) -> Callable[[random.Random], str]:
    """Each call gives the files back their content and damages one of them."""
    kept = {file: file.read_bytes() for file in files}

    def write(draws: random.Random) -> str:
        for file, data in kept.items():
            if file.read_bytes() != data:
                file.write_bytes(data)
        chosen = draws.choice(files)
        chosen.write_bytes(mutate(kept[chosen], draws))
        return chosen.name

    return write
