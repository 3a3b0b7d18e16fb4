"""Face boxes of a table: four columns or one cell of four numbers, in pixels or in shares of the picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mien.faces.text_table import number

CORNERS = ("left,top,right,bottom", "xmin,ymin,xmax,ymax", "x1,y1,x2,y2", "x0,y0,x1,y1", "minx,miny,maxx,maxy")
SIZES = ("x,y,w,h", "x,y,width,height", "left,top,width,height", "left,top,w,h", "xmin,ymin,width,height", "x1,y1,w,h")
BEFORE = ("", "bbox", "box", "face", "facerect", "rect", "roi", "facebox", "facebbox", "boundingbox", "bb", "crop")
"""What stands before these names: bbox_x1, face_left, FaceRectX."""
BOXES: tuple[tuple[tuple[str, str, str, str], tuple[tuple[str, ...], ...]], ...] = tuple(
    (targets, tuple(tuple(before + word for word in form.split(",")) for before in BEFORE for form in forms))
    for targets, forms in ((("left", "top", "right", "bottom"), CORNERS), (("left", "top", "width", "height"), SIZES))
)
"""Targets of a box -> names of its four columns, in lower case without blanks and signs."""
ONE = re.compile(r"(?:face|head)?(?:bbox|box|boundingbox|rect|rectangle)(?:es)?(xyxy|ltrb|voc|xywh|ltwh|coco)?")
"""Name of a column with four numbers in each cell."""
KINDS = {
    "xyxy": "box_xyxy",
    "ltrb": "box_xyxy",
    "voc": "box_xyxy",
    "xywh": "box_xywh",
    "ltwh": "box_xywh",
    "coco": "box_xywh",
}
LEAST_TURNED = 0.02


def target_of(name: str) -> str | None:
    """box_xyxy or box_xywh where a bare column name says the order, box where it does not; None for other names."""
    if name == "regionshapeattributes":  # VGG Image Annotator
        return "box_xywh"
    found = ONE.fullmatch(name)
    return None if found is None else KINDS.get(found[1] or "", "box")


def four(cell: Any) -> list[float] | None:
    """The numbers of a cell such as "[50, 10, 82, 42]", "50 10 82 42", a list, or JSON with x, y, width and height, as VIA writes it;
    None where they are not four.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        try:
            cell = [json.loads(cell)[name] for name in ("x", "y", "width", "height")]
        except (ValueError, KeyError, TypeError):
            return None
    words = cell if isinstance(cell, list | tuple) else re.split(r"[\s,;]+", str(cell).strip("[](){} \t'\""))
    values = [number(word) if isinstance(word, str) else word for word in words]
    return [float(v) for v in values if v is not None] if len(values) == 4 and None not in values else None


def numbers(cell: Any) -> list[float]:
    """All numbers of a cell with one or four; none where there is something else."""
    one = number(str(cell))
    return [one] if one is not None else four(cell) or []


def order(boxes: Sequence[Sequence[float]], sizes: Iterable[tuple[int, int] | None]) -> str | None:
    """box_xywh or box_xyxy: which reading holds for the boxes of pictures of these sizes (width, height); None if both may.

    A third number below the first, or a fourth below the second, is no corner; sides that reach out of the picture are none.
    A few slips do not count.
    """
    corners = sizes_fit = 0
    for (a, b, c, d), size in zip(boxes, sizes, strict=True):
        wide, high = (1.0, 1.0) if max(a, b, c, d) <= 1 else size or (np.inf, np.inf)
        corners += c > a and d > b
        sizes_fit += a + c <= 1.02 * wide and b + d <= 1.02 * high
    slips = LEAST_TURNED * len(boxes)
    bad_corners, bad_sizes = len(boxes) - corners, len(boxes) - sizes_fit
    if bad_corners > slips >= bad_sizes:
        return "box_xywh"
    return "box_xyxy" if bad_sizes > slips >= bad_corners else None


def are_shares(values: Iterable[float]) -> bool:
    """Whether numbers of boxes are shares of the picture: none above 1, and one between 0 and 1."""
    known = [value for value in values if np.isfinite(value)]
    return bool(known) and max(known) <= 1.0 + 1e-6 and any(0 < value < 1 for value in known)
