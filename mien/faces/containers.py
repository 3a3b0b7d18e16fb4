"""What a video file says of itself: whether bytes are missing at its end, whether an MP4 hides frames that it holds, its tracks.

Only lengths are read here, never pictures. Sizes are bytes; MP4: ISO/IEC 14496-12, Matroska: RFC 9559, AVI: RIFF.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

SEGMENT = b"\x18\x53\x80\x67"
"""The element of a Matroska file that holds all else."""
HIDDEN = 0.97
"""An edit list that shows less than this share of a track trims it."""
MOST_BOXES = 100_000
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
"""With which an MP4 or QuickTime file may begin."""


def cut_off(path: Path) -> bool:
    """Whether a file announces more bytes than it has; False for a container that does not say, or cannot be read."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(16)
            if head[4:8] in FIRST_BOXES:
                return any(end > size for _, _, end in boxes(file, 0, size))
            if head[:4] == b"RIFF":
                return riff_end(file, size) > size
            if head[:4] == b"\x1aE\xdf\xa3":
                return segment_end(file) > size
    except (OSError, struct.error, ValueError):
        return False
    return False


def boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Boxes of an MP4 between two places: name, where its content begins, where it ends, which may lie beyond `end`."""
    for _ in range(MOST_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            head = 16
        stop = end if size == 0 else start + size  # 0: to the end of the file
        if size and size < head:
            return
        yield name, start + head, stop
        start = stop


def riff_end(file: IO[bytes], size: int) -> int:
    """Where the last RIFF chunk of an AVI file ends; files above 1 GB have several."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":
            break
        start += 8 + length + length % 2
    return start - 1 if start == size + 1 else start


def vint(file: IO[bytes], keep: bool) -> int | None:
    """A variable-length number of EBML at the present place; None where it is unknown (all ones). `keep`: with its marker."""
    first = file.read(1)
    if not first or first[0] == 0:
        raise ValueError("no EBML number")
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        raise ValueError("no EBML number")
    value = int.from_bytes(first + rest, "big")
    mask = (1 << (7 * length)) - 1
    if not keep and value & mask == mask:
        return None
    return value if keep else value & mask


def segment_end(file: IO[bytes]) -> int:
    """Where the segment of a Matroska file ends; 0 where it does not say, as in a recording that was not finished."""
    file.seek(4)
    header = vint(file, keep=False)
    file.seek(file.tell() + (header or 0))
    if file.read(4) != SEGMENT:
        return 0
    length = vint(file, keep=False)
    return 0 if length is None else file.tell() + length


def trimmed(path: Path) -> bool | None:
    """Whether edits hide a part of an MP4's video; None for another container.

    A trimmed phone video keeps all its frames and shows those that an edit list names.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            if file.read(8)[4:8] != b"ftyp":
                return None
            for name, start, end in boxes(file, 0, size):
                if name == b"moov":
                    return any(
                        hides(file, a, b, clock(file, start, end))
                        for track, a, b in boxes(file, start, end)
                        if track == b"trak"
                    )
    except (OSError, struct.error, ValueError):
        return None
    return None


class Track(NamedTuple):
    """What an MP4 says of one of its tracks."""

    kind: bytes
    """`vide`, `soun`, ... (hdlr)."""
    turn: tuple[int, int, int, int]
    """a, b, c, d of the matrix by which its pictures are shown, in 65,536ths (tkhd): x' = a x + c y, y' = b x + d y."""


def tracks_of(path: Path) -> list[Track]:
    """Tracks of an MP4; none of another container, or of a damaged one."""
    found: list[Track] = []
    with suppress(OSError, struct.error, ValueError), open(path, "rb") as file:
        head = file.read(8)[4:]
        for name, start, end in boxes(file, 0, path.stat().st_size if head in FIRST_BOXES else 0):
            inner = boxes(file, start, end) if name == b"moov" else ()
            found += [track_at(file, a, b) for track, a, b in inner if track == b"trak"]
    return found


def track_at(file: IO[bytes], start: int, end: int) -> Track:
    """The track whose box has its content between two places."""
    kind, turn = b"", (1, 0, 0, 1)
    for name, a, b in boxes(file, start, end):
        if name == b"tkhd":
            file.seek(a)
            file.seek(a + (52 if file.read(1) == b"\x01" else 40))
            right, down, _, left, low = struct.unpack(">5i", file.read(20))
            turn = (right, down, left, low)
        elif name == b"mdia":
            for inner, content, _ in boxes(file, a, b):
                if inner == b"hdlr":
                    file.seek(content + 8)
                    kind = file.read(4)
                    break
    return Track(kind, turn)


def mirrored(path: Path) -> tuple[int, int, int, int] | None:
    """The turn of an MP4's first pictures where it mirrors them, as some front cameras write; else None."""
    for track in tracks_of(path):
        if track.kind == b"vide":
            a, b, c, d = track.turn
            return track.turn if a * d - b * c < 0 else None
    return None


def only_sound(path: Path) -> bool:
    """Whether an MP4 has tracks, but none of pictures; False for another container."""
    kinds = [track.kind for track in tracks_of(path)]
    return b"soun" in kinds and b"vide" not in kinds


def clock(file: IO[bytes], start: int, end: int) -> int:
    """Ticks a second of an MP4's edit lists (mvhd)."""
    return next((timing(file, a)[0] for name, a, _ in boxes(file, start, end) if name == b"mvhd"), 0)


def timing(file: IO[bytes], start: int) -> tuple[int, int]:
    """Ticks a second and duration in ticks, of an mvhd or mdhd box."""
    file.seek(start)
    if file.read(1) == b"\x01":
        file.seek(start + 20)
        return struct.unpack(">IQ", file.read(12))
    file.seek(start + 12)
    return struct.unpack(">II", file.read(8))


def hides(file: IO[bytes], start: int, end: int, ticks: int) -> bool:
    """Whether the edit list of a video track shows less than the track holds."""
    shown, held, is_video = 0.0, 0.0, False
    for name, a, b in boxes(file, start, end):
        for inner, c, d in boxes(file, a, b) if name in (b"edts", b"mdia") else ():
            if inner == b"elst":
                shown = listed(file, c, d) / max(ticks, 1)
            elif inner == b"mdhd":
                rate, duration = timing(file, c)
                held = duration / max(rate, 1)
            elif inner == b"hdlr":
                file.seek(c + 8)
                is_video = file.read(4) == b"vide"
    return is_video and 0 < shown < HIDDEN * held


def listed(file: IO[bytes], start: int, end: int) -> int:
    """Ticks that an edit list shows; empty edits, which delay the start, do not count."""
    file.seek(start)
    version, count = struct.unpack(">B3xI", file.read(8))
    row = ">QqI" if version == 1 else ">IiI"
    total = 0
    for _ in range(min(count, (end - start) // struct.calcsize(row))):
        length, place, _ = struct.unpack(row, file.read(struct.calcsize(row)))
        total += length if place >= 0 else 0
    return total
