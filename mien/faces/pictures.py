"""A picture as a dataset holds it -> decoded pixels -> the square that a store keeps, and its points moved along."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mien.errors import PictureError
from mien.schema import ByteArray, FloatArray, Frame

if TYPE_CHECKING:
    from PIL.Image import Image as PilPicture

BOX_MARGIN = 0.15
"""Added to each side of a face box, as a share of it (Belharbi et al. 2024 enlarge RAF-DB's boxes by 30 % in all)."""

RASTER = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name. Its other formats are left out: an EPS file is a program, which it runs."""
MAX_PIXELS = 100_000_000
MAX_SQUARE = 50_000_000
"""Pixels of a square that is cut out as it is; of a larger one the picture is made smaller first."""
RAW_NOTE, KIND_NOTE = 50706, 254
"""Of a TIFF: DNGVersion, and NewSubfileType, whose lowest bit says that the picture is a smaller copy (of a NEF, ARW or DNG file)."""
MAX_SIDE = 32_766
"""OpenCV does not turn longer pictures."""


USUAL = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM")
"""Of RASTER, those that Pillow knows from the start: looking for all loads thirty more of its modules, a fifth of a second."""


@cache
def formats() -> tuple[str, ...]:
    """Those of RASTER that this Pillow knows; HEIC too where the extra `heic` is installed."""
    from PIL import Image

    Image.init()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in RASTER if name in Image.OPEN)


def _opened(source: Path | io.BytesIO) -> PilPicture:
    """A picture in one of RASTER, the usual ones tried first; UnidentifiedImageError where it is none."""
    from PIL import Image, UnidentifiedImageError

    Image.preinit()
    try:
        return Image.open(source, formats=USUAL)
    except UnidentifiedImageError:
        if isinstance(source, io.BytesIO):
            source.seek(0)
        return Image.open(source, formats=formats())


@contextmanager
def opened(image: Path | bytes) -> Iterator[PilPicture]:
    """A file or its bytes as a PIL picture, of which only the header is read yet. The one place where Mien opens a picture.

    Raises:
        PictureError: missing, no picture in RASTER, or damaged, whatever the library raises, here and inside the block.

    """
    from PIL import UnidentifiedImageError

    if isinstance(image, Path) and not image.is_file():
        raise PictureError(
            "no file, but a folder, pipe or device" if os.path.exists(image) else "picture file does not exist"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubtful EXIF blocks; too many pixels are checked by pixels_of
            source = io.BytesIO(image) if isinstance(image, bytes) else image
            with _opened(source) as picture:
                yield picture
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(what_it_is(image)) from None
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise damaged(error) from None


def damaged(error: Exception) -> PictureError:
    """What a decoder raised, as one line."""
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        return PictureError(f"more than {MAX_PIXELS:,} pixels are too many")
    if isinstance(error, MemoryError):
        return PictureError("there is not enough memory for it")
    if isinstance(error, PermissionError | IsADirectoryError):
        return PictureError(f"cannot be read ({error.strerror})")
    words = " ".join(str(error).split())[:160]
    return PictureError(f"damaged picture ({words or type(error).__name__})")


def picture_size(image: Path | bytes) -> tuple[int, int]:
    """(width, height) in a picture's header, before it is turned upright; PictureError as `opened`."""
    with opened(image) as picture:
        return picture.size


def upright_size(image: Path | bytes) -> tuple[int, int]:
    """(width, height) of a picture once it is turned upright, from its header; PictureError as `opened`."""
    with opened(image) as picture:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return picture.size[::-1] if turned else picture.size


def load_picture(image: Path | bytes | ByteArray | Frame | PilPicture, most_pixels: int = MAX_PIXELS) -> ByteArray:
    """RGB (H, W, 3) or grey (H, W) uint8 pixels of a file, encoded bytes, an array, a PIL picture or a video.

    Upright by its EXIF note, alpha dropped, 16-bit grey scaled to 8 (from 8, 10 or 12 bits where no value is above
    255, 1,023 or 4,095), floating-point grey from 0 to 1 times 255, first frame of an animation. Pictures above `most_pixels`
    are refused by their header, so that a small malicious file cannot fill the memory. PictureError for what cannot be used.
    """
    if isinstance(image, np.ndarray):
        if (
            image.dtype != np.uint8
            or image.ndim not in (2, 3)
            or (image.ndim == 3 and image.shape[2] != 3)
            or not image.size
            or max(image.shape) > MAX_SIDE
        ):
            raise PictureError(f"pixels of type {image.dtype} and shape {image.shape} are no picture")
        return image
    if isinstance(image, Frame):
        from mien.faces.video import read_frame

        return read_frame(image)
    if isinstance(image, Path | bytes):
        with opened(image) as picture:
            return pixels_of(picture, in_place=True, most_pixels=most_pixels)
    try:
        return pixels_of(image, in_place=False, most_pixels=most_pixels)
    except PictureError:
        raise
    except Exception as error:
        raise damaged(error) from None


def pixels_of(picture: PilPicture, in_place: bool, most_pixels: int = MAX_PIXELS) -> ByteArray:
    """As `load_picture` for a PIL picture; `in_place` turns the picture itself upright, which saves a copy."""
    from PIL import ImageOps

    width, height = picture.size
    if width * height > most_pixels:
        raise PictureError(f"{width} x {height} pixels are too many; {most_pixels / 1e6:g} megapixels are allowed")
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"{width} x {height} pixels: a side is longer than {MAX_SIDE}")
    if width * height == 0:
        raise PictureError("a picture without pixels")
    notes = getattr(picture, "tag_v2", {})
    if RAW_NOTE in notes or notes.get(KIND_NOTE, 0) & 1:
        raise PictureError(RAW)
    if in_place:
        ImageOps.exif_transpose(picture, in_place=True)
    else:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        return _from_shares(np.asarray(picture))
    if picture.mode.startswith("I"):  # Pillow opens 16-bit files as I;16 or, some PGM, as I
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise PictureError("pixels outside 0 to 65535; save it with 8 or 16 bits")
        # Cameras with 10 or 12 bits, and pictures of 8, are kept in wider files and would be black otherwise.
        bits = next(bits for bits in (8, 10, 12, 16) if deep.max() < 1 << bits)
        return (deep >> (bits - 8)).astype(np.uint8)
    # `convert` copies a picture that is RGB already.
    return np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))


def _from_shares(values: npt.NDArray[np.float32]) -> ByteArray:
    """Floating-point grey from 0 to 1 as bytes; PictureError for any other range, which nothing says."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise PictureError(
            f"floating-point pixels from {low:.4g} to {high:.4g}, whose range is not known; scale them to 0 to 1, or save it with 8 "
            "or 16 bits"
        )
    return np.rint(values * 255).astype(np.uint8)


A_VIDEO = "a video, not a picture"
SOUND = "only sound, without pictures"
RAW = "a camera's raw picture, of which only a preview could be read; save it as JPEG or PNG"
UNKNOWN = "not a picture, or a damaged one"
MAGIC = {
    b"ftypcrx": RAW,
    b"ftypM4A": SOUND,
    b"ftyphei": "HEIC picture: pip install 'mien[heic]' reads it, or save it as JPEG or PNG",
    b"ftypmif1": "HEIC picture: pip install 'mien[heic]' reads it, or save it as JPEG or PNG",
    b"ftypavi": "AVIF picture, which Pillow reads from 11.3 on: pip install -U pillow, or save it as JPEG or PNG",
    b"ftyp": A_VIDEO,
    b"AVI LIST": A_VIDEO,
    b"\x1aE\xdf\xa3": A_VIDEO,
    b"WAVEfmt": SOUND,
    b"ID3": SOUND,
    b"fLaC": SOUND,
    b"JXL ": "JPEG XL picture, which Pillow does not read; save it as JPEG or PNG",
    b"8BPS": "a Photoshop document; save it as JPEG or PNG",
    b"FUJIFILMCCD": RAW,
    b"IIU\x00": RAW,
    b"IIRO": RAW,
    b"%PDF": "a PDF document, not a picture",
    b"%!PS": "a PostScript program, not a picture",
    b"\xc5\xd0\xd3\xc6": "a PostScript program, not a picture",
}
"""Bytes near the beginning of a file -> what it is."""


def what_it_is(image: Path | bytes) -> str:
    """Why Pillow knows no picture in a file, as far as its first bytes tell."""
    if isinstance(image, bytes):
        head = image[:64]
    else:
        with open(image, "rb") as file:
            head = file.read(64)
    if not head:
        return "empty file"
    for magic, words in MAGIC.items():
        if magic in head[:16]:
            return words
    plain = all(byte in b"\t\r\n\f" or byte >= 32 for byte in head) and b"\x7f" not in head
    return "a text file, not a picture" if plain and head.isascii() else UNKNOWN


def box_square(box: FloatArray, margin: float = BOX_MARGIN) -> tuple[int, int, int]:
    """Left, top, side of the square around a box x0, y0, x1, y1, enlarged by `margin` a side; may leave the image."""
    x0, y0, x1, y1 = (float(value) for value in box)
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * margin)))
    return round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side


def outside(box: FloatArray, height: int, width: int) -> bool:
    """Whether less than half of a box x0, y0, x1, y1 lies inside the picture; False for an unknown (NaN) box."""
    x0, y0, x1, y1 = (float(value) for value in box)
    shared = max(min(x1, width) - max(x0, 0.0), 0.0) * max(min(y1, height) - max(y0, 0.0), 0.0)
    return shared < 0.5 * (x1 - x0) * (y1 - y0)


def whole_square(height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side of the smallest square with the whole picture in its middle."""
    side = max(height, width)
    return -((side - width) // 2), -((side - height) // 2), side


def centre_square(height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side of the largest square inside the picture, in its middle."""
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side


def cut_square(image: ByteArray, square: tuple[int, int, int], size: int) -> tuple[ByteArray, npt.NDArray[np.float32]]:
    """Cut left, top, side out of a picture, black outside it, and resize to `size`.

    Returns the pixels and the (2, 3) matrix that moves (x, y) points along: pixel centres at .0, so
    x' = (x - left + 0.5) size / side - 0.5. Area interpolation when shrinking, cubic when enlarging.
    """
    import cv2

    scale = size / square[2]
    shift = [(0.5 - start) * scale - 0.5 for start in square[:2]]
    if square[2] ** 2 > MAX_SQUARE:  # a panorama's whole square would take gigabytes, most of it black
        image, square = shrunk(image, square, max(size, MAX_SIDE // 8))
    left, top, side = square
    height, width = image.shape[:2]
    y0, y1, x0, x1 = max(top, 0), min(top + side, height), max(left, 0), min(left + side, width)
    if (y0, y1, x0, x1) == (top, top + side, left, left + side):
        cut = image[y0:y1, x0:x1]
    else:
        cut = np.zeros((side, side, *image.shape[2:]), dtype=np.uint8)
        if y1 > y0 and x1 > x0:
            cut[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    if side != size:
        cut = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_CUBIC)
    return np.ascontiguousarray(cut), np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], dtype=np.float32)


def shrunk(image: ByteArray, square: tuple[int, int, int], most: int) -> tuple[ByteArray, tuple[int, int, int]]:
    """A picture made smaller by a whole number, and its square with it, so that the square's side is at most `most`.

    The square moves by less than a pixel of the smaller picture.
    """
    import cv2

    left, top, side = square
    times = -(-side // most)
    height, width = (max(1, round(length / times)) for length in image.shape[:2])
    small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return small, (round(left / times), round(top / times), max(1, round(side / times)))


def rescale(points: FloatArray, frame: tuple[int, int], size: tuple[int, int]) -> FloatArray:
    """Points (..., 2) of a frame of (width, height) pixels in a picture of another size; pixel centres at .0.

    x' = (x + 0.5) size / frame - 0.5, the same as for y. Points outside stay outside; NaN stays NaN.
    """
    factor = np.array(size, dtype=np.float64) / np.array(frame)
    return np.asarray((points + 0.5) * factor - 0.5, dtype=np.float32)
