"""How predictions look in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mien.predict.results import NOTICE, FacePrediction, PicturePrediction, counted

if TYPE_CHECKING:
    from mien.schema import ByteArray

MOST = 24
"""Faces that are shown."""


def html_of(pictures: Sequence[PicturePrediction]) -> str:
    """One line a face, with its picture, map, bars and words; pictures without a face by their reason."""
    lines, shown = [], 0
    for picture in pictures:
        for face in picture.faces[: MOST - shown]:
            lines.append(_face(picture, face))
            shown += 1
        if picture.reason is not None:
            lines.append(f"<p><code>{html.escape(picture.source)}</code>: {html.escape(picture.reason)}</p>")
    total = sum(len(picture.faces) for picture in pictures)
    more = total - shown
    if more > 0:
        lines.append(f"<p>and {more} more faces</p>")
    count = f"{counted(total, 'face')} in {counted(len(pictures), 'picture')}"
    return f"<div><p><small>{NOTICE}: {count}</small></p>{''.join(lines)}</div>"


def _face(picture: PicturePrediction, face: FacePrediction) -> str:
    from mien.draw import to_data_uri

    pictures = [face.display] if face.explanation is None else [face.display, mapped(face)]
    images = "".join(f'<img src="{to_data_uri(image)}" alt="face {face.face}">' for image in pictures)
    bars = "".join(
        f"<tr><td>{html.escape(name)}</td><td><div style='background:#4477aa;height:.7em;width:{120 * value:.0f}px'></div>"
        f"</td><td style='text-align:right'>{value:.0%}</td></tr>"
        for name, value in face.probabilities.items()
    )
    name = (
        f"<b>{html.escape(face.expression)} {face.confidence:.0%}</b>{html.escape(face.doubt and f' ({face.doubt})')}"
    )
    words = [face.reading or "", face.explanation.words if face.explanation else ""]
    text = "<br>".join([name, *(html.escape(line) for line in words if line)])
    source = html.escape(picture.source)
    return (
        f"<div style='display:flex;gap:1em;align-items:center;margin:.5em 0'><div style='display:flex;flex:none'>{images}"
        f"</div><table style='flex:none'>{bars}</table>"
        f"<div>{text}<br><small>{source}, face {face.face}</small></div></div>"
    )


def mapped(face: FacePrediction) -> ByteArray:
    """The face with its explanation drawn over it; the face itself without one."""
    from mien.draw import overlay

    if face.explanation is None:
        return face.display
    values = face.explanation.map
    spread = float(np.ptp(values))
    return overlay(face.display, (values - values.min()) / (spread if spread > 0 else 1.0))
