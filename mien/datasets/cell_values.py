"""What a single cell of a table holds: a picture, nothing, a label or a word for none."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

from mien.datasets.words import label_key


def is_pixels(text: str) -> bool:
    """Whether a cell holds grey values, as fer2013.csv does."""
    return len(text) > 100 and text[:20].replace(" ", "").isdigit()


BASE64 = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "Qk")
"""First letters of JPEG, PNG, WebP, GIF and BMP in base64."""


def in_base64(text: str) -> bytes | None:
    """The encoded picture that a long cell holds as text; None for any other cell."""
    start, comma, _ = text[:40].partition(",")
    body = text[len(start) + 1 :] if comma and start.startswith("data:image/") else text
    if len(text) < 100 or not ((comma and start.startswith("data:image/")) or body.startswith(BASE64)):
        return None
    try:
        return base64.b64decode(body, validate=False)
    except ValueError:
        return None


def holds_picture(text: str) -> bool:
    """Whether a cell of text is the picture and not its path."""
    return is_pixels(text) or in_base64(text) is not None


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


UNLABELLED = ("na", "nan", "n/a", "<na>", "none", "null", "?", "-", "-1", "unlabeled", "unlabelled", "unknown")
"""Words that say of a face that nobody knows its expression."""


def is_unlabelled(word: str, labels: Mapping[str, str]) -> bool:
    """Whether a label says that there is none, unless the user's `labels` give it a meaning."""
    return label_key(word) in UNLABELLED and label_key(word) not in labels


def label_word(value: Any, classes: tuple[str, ...] | None) -> str:
    """A label as text; whole numbers in a column with gaps come as floats from Parquet."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if classes is not None and isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    if isinstance(value, list | tuple) and len(value) == 1:
        return label_word(value[0], classes)
    text = str(value).strip()
    alone = re.fullmatch(r"[\[({]\s*(['\"]?)([^,\[\](){}'\"]+)\1\s*,?\s*[\])}]", text)  # ['happy'], (3,)
    return alone[2].strip() if alone else text
