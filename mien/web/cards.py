"""What a model says of a face, as HTML with its pictures inside; nothing is written to disk."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import replace

from mien import draw
from mien.predict.overlay import annotated, unit_range
from mien.predict.results import FacePrediction, PicturePrediction
from mien.schema import ByteArray, FloatArray

MOST = 8
"""Faces of a photo that are shown in full."""
NOTICE = (
    "Mien names the <b>expression</b> that a face shows, never what the person feels. "
    "In the EU, inferring emotions at work or in education is prohibited."
)
TITLE = "Mien &middot; expression recognition"


def header(run: str, faces_by: str) -> str:
    """Title, notice and what answers."""
    return (
        f'<div class="mien-head"><h1>{TITLE}</h1><p class="mien-notice">{NOTICE}</p>'
        f"<p class='mien-small'>Model: {html.escape(run)}. Faces: {html.escape(faces_by)}. "
        "Everything is computed on the computer that serves this page.</p></div>"
    )


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


def picker(max_bytes: int) -> str:
    """Where a photo is chosen or dropped."""
    return (
        f'<label class="mien-drop" data-most="{max_bytes}"><input type="file" accept="image/*">'
        "<b>Choose a photo</b><span>or drop it here. It is kept nowhere.</span></label>"
    )


PICKER_SCRIPT = """
const box = element.querySelector('.mien-drop'), input = element.querySelector('input');
function take(file) {
  if (!file) return;
  const most = Number(box.dataset.most);
  if (file.size > most) { box.querySelector('span').textContent = 'This file is larger than ' + most / 1e6 + ' MB.'; return; }
  const reader = new FileReader();
  reader.onload = () => { box.querySelector('span').textContent = file.name; props.value = reader.result; trigger('change'); };
  reader.readAsDataURL(file);
}
input.addEventListener('change', () => { take(input.files[0]); input.value = ''; });
box.addEventListener('dragover', (event) => event.preventDefault());
box.addEventListener('drop', (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
"""
"""The browser reads the file itself; its data URL is the value of the component."""


def message(text: str) -> str:
    """One line in place of a result."""
    return f'<div class="mien-message" role="status">{html.escape(text)}</div>'


def jpeg_uri(picture: ByteArray, quality: int = 88) -> str:
    """The picture as `data:image/jpeg;base64,...`: small and quick, for pictures that change while a slider moves."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw.rgb(picture)).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; overflow: visible !important; }
footer { display: none !important; }
.gradio-container .html-container { padding: 0 !important; }
.mien-head h1 { font-size: 1.5rem; margin: .2rem 0; }
.mien-notice { margin: .2rem 0; padding: .5rem .8rem; border-left: 4px solid #b45309; background: rgba(180, 83, 9, .1); }
.mien-small { font-size: .82rem; opacity: .75; margin: .2rem 0; }
.mien-card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .8rem; margin: 0 0 .8rem;
  background: var(--background-fill-primary); }
.mien-card h3 { margin: 0 0 .5rem; font-size: 1.1rem; }
.mien-unsure { margin-left: .5rem; padding: .1rem .5rem; border-radius: 1rem; font-size: .8rem; background: #6b7280; color: #fff; }
.mien-bar { display: grid; grid-template-columns: 6.2rem 1fr 2.8rem; gap: .5rem; align-items: center; line-height: 1.45; }
.mien-track { height: .8rem; border-radius: .2rem; background: rgba(128, 128, 128, .22); overflow: hidden; }
.mien-fill { display: block; height: 100%; background: #6b7f99; transition: width .15s; }
.mien-marked .mien-fill { background: #2563eb; }
.mien-marked .mien-name, .mien-marked .mien-share { font-weight: 700; }
.mien-share { text-align: right; font-variant-numeric: tabular-nums; }
.mien-pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: .5rem; margin-top: .7rem; }
.mien-pictures figure, .mien-photo figure { margin: 0; }
.mien-pictures img, .mien-none { width: 100%; aspect-ratio: 1; border-radius: 6px; display: block; }
.mien-none { display: grid; place-items: center; text-align: center; padding: .3rem; box-sizing: border-box;
  font-size: .85rem; background: rgba(128, 128, 128, .15); }
.mien-card figcaption, .mien-photo figcaption { font-size: .8rem; text-align: center; opacity: .85; overflow-wrap: anywhere; }
.mien-drop { display: flex; flex-direction: column; align-items: center; gap: .2rem; padding: 1.3rem; cursor: pointer;
  border: 2px dashed var(--border-color-primary); border-radius: 8px; overflow-wrap: anywhere; }
.mien-drop:hover, .mien-drop:focus-within { border-color: #2563eb; }
.mien-drop input { position: absolute; width: 1px; height: 1px; opacity: 0; }
.mien-result { position: sticky !important; top: .4rem; align-self: flex-start; z-index: 100; }
.mien-sliders .form { background: none !important; border: 0 !important; display: grid !important;
  grid-template-columns: 1fr 1fr; gap: 0 .4rem !important; }
.mien-sliders input[type=number] { width: 3.2rem; }
.mien-sliders .block { padding: .25rem .6rem; }
.mien-sliders .min_value, .mien-sliders .max_value { display: none; }
.mien-sliders .head { align-items: center; }
.mien-sliders label, .mien-sliders .head span { font-size: .82rem; margin: 0; }
.mien-words p { margin: .5rem 0 0; }
.mien-photo { margin-bottom: .8rem; }
.mien-photo img { max-width: 100%; max-height: 420px; border-radius: 8px; display: block; margin: 0 auto; }
.mien-message { padding: .7rem .9rem; border-radius: 8px; background: rgba(180, 83, 9, .12); margin-bottom: .8rem; }
@media (max-width: 640px) {
  .mien-pictures { gap: .3rem; }
  .mien-card { padding: .6rem; }
  .mien-card figcaption { font-size: .68rem; }
  .mien-bar { grid-template-columns: 5.6rem 1fr 2.6rem; font-size: .85rem; line-height: 1.3; }
  .mien-none { font-size: .68rem; }
  .mien-head h1 { font-size: 1.1rem; }
  .mien-sliders .head input, .mien-sliders .head .tab-like-container { display: none; }
  .mien-sliders .block { padding: .2rem .4rem; }
  .mien-notice { font-size: .85rem; padding: .35rem .6rem; }
  .mien-words p { font-size: .8rem; margin-top: .3rem; }
  .mien-result .mien-small { display: none; }
  .mien-result .mien-card h3 { font-size: 1rem; margin-bottom: .25rem; }
}
"""
