"""One page to keep: the picture with its faces, the probabilities, the map and the words of each, as PDF."""

from __future__ import annotations

import io
import textwrap
from dataclasses import replace
from typing import Any

from mien import draw
from mien.predict.overlay import annotated, unit_range
from mien.predict.results import FacePrediction, PicturePrediction
from mien.schema import ByteArray
from mien.web.cards import NOTICE

MOST = 3
"""Faces that a page has room for."""
A4 = (8.27, 11.69)
NAME = 48
"""Letters of a file's name that a line has room for."""


def pdf_of(image: ByteArray, found: PicturePrediction, method: str, model: str) -> bytes:
    """A PDF of one A4 page; at most MOST faces, the others are counted."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    page = Figure(figsize=A4)
    FigureCanvasPdf(page)
    page.text(0.07, 0.955, "Mien: expression recognition", size=16, weight="bold")
    page.text(0.07, 0.925, "\n".join(textwrap.wrap(NOTICE, 105)), size=9, va="top")
    name = textwrap.shorten(found.source, NAME, placeholder=" ...") if " " in found.source else found.source[:NAME]
    page.text(0.07, 0.885, f"{name} · {found.width} x {found.height} · {model} · map: {method}", size=8, va="top")
    shown = found.faces[:MOST]
    plain = replace(found, faces=tuple(replace(face, explanation=None) for face in found.faces))
    picture = page.add_axes((0.07, 0.62, 0.86, 0.24))
    picture.imshow(annotated(image, plain))
    picture.axis("off")
    for number, face in enumerate(shown):
        _face(page, face, 0.44 - 0.2 * number)
    left = len(found.faces) - len(shown)
    told = (
        f"{left} more faces are not shown."
        if left > 0
        else ""
        if shown
        else f"No result: {found.reason or 'no face found'}."
    )
    page.text(0.07, 0.01, told, size=8)
    buffer = io.BytesIO()
    page.savefig(buffer, format="pdf", metadata={"Title": "Mien: expression recognition", "CreationDate": None})
    return buffer.getvalue()


def _face(page: Any, face: FacePrediction, bottom: float) -> None:
    """Bars, face, map and words of one face in a strip above `bottom`, a share of the page."""
    bars = page.add_axes((0.17, bottom, 0.22, 0.13))
    names = list(face.probabilities)[::-1]
    bars.barh(names, [100 * face.probabilities[name] for name in names], color="#4a6fa5")
    bars.set_xlim(0, 100)
    bars.tick_params(labelsize=7)
    bars.set_xlabel("probability, %", size=7)
    unsure = f" ({face.doubt})" if face.doubt else ""
    bars.set_title(f"Face {face.face}: {face.expression} {face.confidence:.0%}{unsure}", size=9, loc="left")
    pictures = [face.display]
    told = face.explanation
    if told is not None:
        pictures.append(draw.overlay(face.display, unit_range(told.map.clip(0))))
    for number, picture in enumerate(pictures):
        place = page.add_axes((0.41 + 0.14 * number, bottom, 0.13, 0.14))
        place.imshow(picture)
        place.axis("off")
    words = [face.reading or "", told.words if told is not None else ""]
    text = "\n".join(line for part in words if part for line in textwrap.wrap(part, 44))
    page.text(0.70, bottom + 0.14, text, size=7, va="top")
