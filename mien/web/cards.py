"""What a model says of a face, as HTML with its pictures inside; nothing is written to disk."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping
from dataclasses import replace

from mien import draw
from mien.predict.overlay import annotated, unit_range
from mien.predict.results import FacePrediction, PicturePrediction
from mien.schema import ByteArray, FloatArray

MOST = 8
"""Faces of a photo that are shown in full."""
NOTICE = (
    "Mien names the expression that a face shows, never what the person feels. "
    "In the EU, inferring emotions at work or in education is prohibited."
)
TITLE = "Mien: expression recognition"


def photo_page(picture: ByteArray, found: PicturePrediction, method: str) -> str:
    """A photo with its faces in boxes, then a card for each face."""
    plain = replace(found, faces=tuple(replace(face, explanation=None) for face in found.faces))
    whole = figure(annotated(picture, plain), f"{len(found.faces)} {'face' if len(found.faces) == 1 else 'faces'}")
    if not found.faces:
        return message(f"No result: {found.reason or 'no face found'}.") + f'<div class="mien-photo">{whole}</div>'
    cards = "".join(card(face, method) for face in found.faces[:MOST])
    rest = len(found.faces) - MOST
    more = message(f"{rest} more faces are not shown; `mien predict` lists all.") if rest > 0 else ""
    return f'<div class="mien-photo">{whole}</div>{cards}{more}'


def card(face: FacePrediction, method: str, title: str = "") -> str:
    """Bars of probabilities, and face, cue, attention and map side by side, with the words below."""
    told = face.explanation
    target = face.expression if told is None else told.expression
    sure = f'<span class="mien-unsure">{html.escape(face.doubt)}</span>' if face.doubt else ""
    heading = f"<h3>{html.escape(title or f'Face {face.face}')}: {html.escape(face.expression)} {face.confidence:.0%}{sure}</h3>"
    pictures = [figure(face.display, "face")]
    if told is not None:
        pictures.append(cue_figure(face.display, told.cue, target, face.landmarks is None))
        if told.attention is not None:
            pictures.append(figure(draw.overlay(face.display, unit_range(told.attention)), "attention"))
        pictures.append(figure(draw.overlay(face.display, unit_range(told.map.clip(0))), f"{method}: {target}"))
    lines = [face.reading or "", told.words if told is not None else ""]
    words = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    scored = "" if told is None else scores(told.scores)
    return (
        f'<article class="mien-card">{heading}<div class="mien-body">{bars(face.probabilities, target)}'
        f'<div class="mien-pictures">{"".join(pictures)}</div></div>'
        f'<div class="mien-words">{words}{scored}</div></article>'
    )


def bars(probabilities: Mapping[str, float], marked: str) -> str:
    """One bar an expression in the order of the classes; the explained one is marked."""
    rows = []
    for name, share in probabilities.items():
        kind = "mien-bar mien-marked" if name == marked else "mien-bar"
        rows.append(
            f'<div class="{kind}"><span class="mien-name">{html.escape(name)}</span><span class="mien-track">'
            f'<span class="mien-fill" style="width:{100 * share:.1f}%"></span></span>'
            f'<span class="mien-share">{share:.0%}</span></div>'
        )
    return f'<div class="mien-bars">{"".join(rows)}</div>'


def cue_figure(display: ByteArray, cue: FloatArray | None, target: str, no_landmarks: bool) -> str:
    """Where the action units of the explained expression show, or why there is nothing to show."""
    if cue is None:
        why = "no landmarks, no cue" if no_landmarks else f"{target} has no action units"
        return f'<figure><div class="mien-none">{html.escape(why)}</div><figcaption>AU cue</figcaption></figure>'
    return figure(draw.overlay(display, cue), f"AU cue: {target}")


def figure(picture: ByteArray, caption: str) -> str:
    """A picture with its caption."""
    text = html.escape(caption)
    return f'<figure><img src="{jpeg_uri(picture)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def scores(found: Mapping[str, Mapping[str, float]]) -> str:
    """Cosine of each map with the cue, as in `mien evaluate`."""
    parts = [f"{html.escape(name)} {values['cosine']:.2f}" for name, values in found.items() if "cosine" in values]
    cosines = f" Cosine with the AU cue: {', '.join(parts)}." if parts else ""
    return f"<p class='mien-small'>Maps: blue low, red high, each stretched to its own range.{cosines}</p>"


def message(text: str) -> str:
    """One line in place of a result; what stands between backquotes is a command."""
    told = re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return f'<div class="mien-message" role="status">{told}</div>'


def jpeg_uri(picture: ByteArray, quality: int = 88) -> str:
    """The picture as `data:image/jpeg;base64,...`: small and quick, for pictures that change while a slider moves."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw.rgb(picture)).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
