"""Pictures of maps: overlays, landmarks, labelled grids, colour bars, PNG files. numpy, OpenCV and Pillow only.

Images are RGB uint8 (H, W, 3); grey (H, W) is taken too. Maps are (h, w) in [0, 1], values outside are clipped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from mien.errors import DataError
from mien.files import write_atomic
from mien.schema import ByteArray

INK = (32, 32, 36)
PAPER = (255, 255, 255)
COLOUR_MAPS = {"turbo": cv2.COLORMAP_TURBO, "viridis": cv2.COLORMAP_VIRIDIS, "inferno": cv2.COLORMAP_INFERNO}
"""Name -> OpenCV colour map; viridis and inferno keep their order in grey and for colour-blind readers."""

Floats = npt.NDArray[np.floating]
Colour = tuple[int, int, int]
DRAWN = ("Mien", "drawn")
"""Note in every PNG that is written here, by which folders of photos leave such pictures out."""


def colour(values: Floats, name: str = "turbo") -> ByteArray:
    """Map (h, w) in [0, 1] -> RGB (h, w, 3). NaN is drawn grey, so that it is not mistaken for zero."""
    data = np.asarray(values, dtype=np.float32)
    if data.ndim != 2:
        raise DataError(f"a map to draw has shape {data.shape}; expected (h, w).")
    unknown = np.isnan(data)
    level = np.rint(np.clip(np.where(unknown, 0, data), 0, 1) * 255).astype(np.uint8)
    rgb = cv2.cvtColor(cv2.applyColorMap(level, COLOUR_MAPS[name]), cv2.COLOR_BGR2RGB)
    rgb[unknown] = 128
    return np.asarray(rgb, dtype=np.uint8)


def overlay(image: ByteArray, values: Floats, strength: float = 0.6, name: str = "turbo") -> ByteArray:
    """Map drawn over its picture, RGB (H, W, 3). The map is resized bilinearly to the picture.

    `strength` is the share of colour where the map is 1; it fades to a third of that where the map is 0, so that the
    face stays readable and low evidence stays visible as such.
    """
    base = rgb(image)
    height, width = base.shape[:2]
    data = np.asarray(values, dtype=np.float32)
    if data.ndim != 2:
        raise DataError(f"a map to draw has shape {data.shape}; expected (h, w).")
    large = np.clip(cv2.resize(data, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    share = (strength * (1 + 2 * np.nan_to_num(large)) / 3)[..., None]
    mixed = base * (1 - share) + colour(large, name) * share
    return np.rint(mixed).astype(np.uint8)


def landmarks(
    image: ByteArray, points: Floats, radius: int | None = None, ink: tuple[int, int, int] = (40, 255, 90)
) -> ByteArray:
    """Copy of the picture with points (L, 2), xy pixels with centres at .0; NaN points are left out.

    Points outside the picture are not moved to its edge: they are not seen.
    """
    canvas = rgb(image).copy()
    size = max(1, round(min(canvas.shape[:2]) / 110)) if radius is None else radius
    places = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    for x, y in places[np.isfinite(places).all(axis=1)]:
        centre = (round(x * 16), round(y * 16))  # four bits of sub-pixel place
        cv2.circle(canvas, centre, (size + 1) * 16, INK, -1, cv2.LINE_AA, 4)
        cv2.circle(canvas, centre, size * 16, ink, -1, cv2.LINE_AA, 4)
    return canvas


def rgb(image: ByteArray) -> ByteArray:
    """RGB (H, W, 3) uint8 of a grey (H, W) or RGB picture; DataError for anything else."""
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] != 3)
        or image.size == 0
    ):
        raise DataError(f"a picture to draw is {image.dtype} {image.shape}; expected uint8 (H, W) or (H, W, 3).")
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def fit(image: ByteArray, size: tuple[int, int]) -> ByteArray:
    """Picture scaled to fit (height, width), proportions kept, centred on white."""
    source = rgb(image)
    scale = min(size[0] / source.shape[0], size[1] / source.shape[1])
    height, width = max(1, round(source.shape[0] * scale)), max(1, round(source.shape[1] * scale))
    scaled = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    canvas = np.full((*size, 3), 255, np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = scaled
    return canvas


def grid(
    cells: Sequence[Sequence[ByteArray | None]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    cell: int = 128,
    title: str = "",
    bar: bool = False,
    name: str = "turbo",
) -> ByteArray:
    """Pictures in rows and columns with a heading, row names at the left, column names above and captions below.

    Args:
        cells: rows of pictures; None leaves a gap. Rows may differ in length.
        rows: name of each row, or none.
        columns: name of each column, or none; a column is as wide as its pictures, long names are broken into lines.
        captions: text under each picture, rows of strings, or none.
        cell: side of a picture in pixels.
        title: heading of the whole.
        bar: a colour bar from 0 to 1 at the right.
        name: colour map of the bar.

    """
    wide = _checked_grid(cells, rows, columns, captions)
    size, gap = max(11, cell // 9), max(4, cell // 20)
    line, pitch = size + max(3, size // 4), cell + gap
    heads = [_wrap(text, size, cell) for text in columns]
    texts = [[_wrap(text, size, cell) for text in row] for row in captions]
    top = gap + (line + gap + 2 if title else 0) + (line * max(map(len, heads)) + gap if heads else 0)
    left = gap + (max(_width(text, size) for text in rows) + 2 * gap if rows else 0)
    below = [line * max((len(text) for text in row), default=0) + gap for row in texts] or [0] * len(cells)
    legend = colour_bar(cell, name) if bar else np.zeros((0, 0, 3), np.uint8)
    width = left + wide * pitch + (legend.shape[1] + 2 * gap if bar else 0)
    sheet = Image.new(
        "RGB", (max(width, 2 * gap + _width(title, size + 2, bold=True)), top + sum(below) + pitch * len(cells)), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, gap), title, fill=INK, font=_font(size + 2, bold=True))
    for k, lines in enumerate(heads):
        _centred(pen, lines, left + k * pitch + cell // 2, top - gap - line * len(lines), line, size)
    y = top
    for r, row in enumerate(cells):
        if rows:
            pen.text((left - 2 * gap, y + cell // 2), rows[r], fill=INK, font=_font(size), anchor="rm")
        for k, picture in enumerate(row):
            if picture is not None:
                sheet.paste(Image.fromarray(fit(picture, (cell, cell))), (left + k * pitch, y))
        for k, lines in enumerate(texts[r] if texts else ()):
            _centred(pen, lines, left + k * pitch + cell // 2, y + cell + gap // 2, line, size)
        y += pitch + below[r]
    if bar:
        sheet.paste(Image.fromarray(legend), (left + wide * pitch + gap, top))
    return np.asarray(sheet, dtype=np.uint8)


def strip(pictures: Sequence[ByteArray], columns: Sequence[str] = (), cell: int = 128, title: str = "") -> ByteArray:
    """One row of pictures with their names above."""
    return grid([pictures], columns=columns, cell=cell, title=title)


def tile(sheets: Sequence[ByteArray], across: int, title: str = "", size: int = 14) -> ByteArray:
    """Sheets side by side, `across` in a line, each at the top left of its place, under a heading of `size` px."""
    gap = size
    columns = [max(sheet.shape[1] for sheet in sheets[k::across]) for k in range(min(across, len(sheets)))]
    lines = [sheets[start : start + across] for start in range(0, len(sheets), across)]
    heights = [max(sheet.shape[0] for sheet in line) for line in lines]
    top = 2 * gap + size if title else 0
    width = max(sum(columns) + gap * (len(columns) - 1), 2 * gap + _width(title, size, bold=True))
    canvas = Image.new("RGB", (width, top + sum(heights) + gap * (len(heights) - 1)), PAPER)
    ImageDraw.Draw(canvas).text((gap // 2, gap // 2), title, fill=INK, font=_font(size, bold=True))
    for r, line in enumerate(lines):
        for k, sheet in enumerate(line):
            place = (sum(columns[:k]) + gap * k, top + sum(heights[:r]) + gap * r)
            canvas.paste(Image.fromarray(sheet), place)
    return np.asarray(canvas, dtype=np.uint8)


def colour_bar(height: int, name: str = "turbo") -> ByteArray:
    """Vertical legend, 1 at the top, 0 at the bottom, with figures at its right."""
    size, wide = max(10, height // 10), max(8, height // 8)
    sheet = Image.new("RGB", (wide + 4 + _width("0.5", size), height), PAPER)
    ramp = np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], wide, axis=1)
    sheet.paste(Image.fromarray(colour(ramp, name)), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for text, y, anchor in (("1", 0, "lt"), ("0.5", height // 2, "lm"), ("0", height - 1, "lb")):
        pen.text((wide + 4, y), text, fill=INK, font=_font(size), anchor=anchor)
    return np.asarray(sheet, dtype=np.uint8)


def png_bytes(image: ByteArray) -> bytes:
    """The picture as an encoded PNG that says that it was drawn."""
    buffer, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text(*DRAWN)
    Image.fromarray(rgb(image)).save(buffer, "PNG", optimize=True, pnginfo=notes)
    return buffer.getvalue()


def is_drawn(path: Path) -> bool:
    """Whether a file was written by `write_png`: a sheet, a strip or an annotated picture, not a photo."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return False
        with open(path, "rb") as file:
            return b"\0".join(text.encode() for text in DRAWN) in file.read(256)
    except OSError:
        return False


def to_data_uri(image: ByteArray) -> str:
    """The picture as `data:image/png;base64,...`, for a self-contained HTML page."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")


def write_png(path: Path, image: ByteArray) -> None:
    """Write a PNG whole or not at all. Missing folders are made."""
    write_atomic(path, png_bytes(image))


def plate(
    image: ByteArray, text: str, place: tuple[int, int], size: int, ink: Colour = PAPER, paper: Colour = INK
) -> None:
    """Write a line of text on a plate into a picture, in place; `place` (x, y) is the lower left corner of the plate.

    The plate is moved so that it lies in the picture as far as it fits.
    """
    left, top, right, bottom = plate_box((image.shape[0], image.shape[1]), text, place, size)
    sheet = Image.new("RGB", (right - left, bottom - top), paper)
    ImageDraw.Draw(sheet).text((_pad(size), (bottom - top) // 2), text, fill=ink, font=_font(size), anchor="lm")
    image[top:bottom, left:right] = np.asarray(sheet)


def plate_box(shape: tuple[int, int], text: str, place: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the plate that `plate` would write into a picture of (height, width)."""
    height, width = shape
    wide, tall = min(_width(text, size) + 2 * _pad(size), width), min(size + 2 * _pad(size), height)
    left = min(max(place[0], 0), width - wide)
    top = min(max(place[1] - tall, 0), height - tall)
    return left, top, left + wide, top + tall


def _pad(size: int) -> int:
    """Pixels around the text of a plate."""
    return max(2, size // 4)


def _checked_grid(
    cells: Sequence[Sequence[ByteArray | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]],
) -> int:
    wide = max((len(row) for row in cells), default=0)
    if wide == 0:
        raise DataError("a grid to draw has no pictures.")
    needs = (
        ("row names", rows, len(cells)),
        ("column names", columns, wide),
        ("rows of captions", captions, len(cells)),
    )
    for what, names, count in needs:
        if names and len(names) != count:
            raise DataError(f"a grid to draw has {len(names)} {what} for {count}.")
    return wide


@lru_cache(maxsize=32)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # DejaVu travels with matplotlib, a dependency; Pillow's own font is the way out where it is missing.
    try:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def _width(text: str, size: int, bold: bool = False) -> int:
    return int(np.ceil(max(_font(size, bold).getlength(line) for line in text.split("\n"))))


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines no wider than `width`, broken at spaces and newlines; a longer word is kept whole."""
    lines: list[str] = []
    for part in text.split("\n"):
        line = ""
        for word in part.split(" "):
            longer = f"{line} {word}".strip()
            if line and _width(longer, size) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines


def _centred(pen: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, step: int, size: int) -> None:
    for i, text in enumerate(lines):
        pen.text((x, y + i * step), text, fill=INK, font=_font(size), anchor="ma")
