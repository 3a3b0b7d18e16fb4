"""The page: Gradio calls the functions of this folder, and holds no logic of its own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mien import explain as explainers
from mien.errors import DataError, PictureError, UsageError
from mien.predict.finders import Finders
from mien.predict.model import LEAST_FACE, FaceModel, load
from mien.web import cards, synthetic
from mien.web.limits import Limits, read_photo, request_bytes

PREDICTED = "predicted"
LEFT_OUT = ("grad_cam_pp_as_coded",)
DISPLAY = 224


class Served(NamedTuple):
    """What answers on the page."""

    model: FaceModel
    found_by: str
    """Who finds faces, in words."""
    methods: tuple[str, ...]
    """Maps that one or two passes give, the first is the default."""


def open_model(
    run: Path | None, action_units: Path | None, faces: str, landmark_model: Path | None, device: str,
    calibration: str | None = None,
) -> Served:  # fmt: skip
    """Load the model, and a finder of faces; with `auto` whole pictures are faces where there is none.

    Raises:
        UsageError: unknown provider or device. DataError: no run, or a named provider that cannot be opened.

    """
    model = load(run, action_units=action_units, device=device, faces="none", calibration=calibration)
    found_by = "whole pictures are taken as faces"
    if faces != "none":
        try:
            name = "mediapipe" if faces == "auto" else faces
            least = LEAST_FACE.get(name, float("-inf"))
            model = replace(model, provider=Finders(name, landmark_model), least_face=least)
            found_by = f"found by {name}"
        except DataError as error:
            if faces != "auto" or landmark_model is not None:
                raise
            print(f"mien: whole pictures are taken as faces: {error}", file=sys.stderr)
    return Served(model, found_by, methods_of(model))


def methods_of(model: FaceModel) -> tuple[str, ...]:
    """Explainers that fit the model and need no changed pictures, which would take too long for a page."""
    size = model.recipe.model.size
    image = torch.zeros(1, 3, size, size, device=model.device)
    names = [name for name, row in explainers.EXPLAINERS.items() if row.kind != "perturbation" and name not in LEFT_OUT]
    return tuple(explainers.fitting(model.net, image, names, model.net.blank_guide(image)))


def explain_drawn(
    served: Served, method: str, expression: str, person: float, yaw: float, pitch: float, *intensities: float
) -> str:
    """Card of a synthetic face; intensities are those of `synthetic.UNITS`."""
    units = {name: float(value) for name, value in zip(synthetic.UNITS, intensities, strict=True)}
    face = synthetic.draw_face(units, int(person), yaw, pitch)
    model = replace(served.model, provider=synthetic.finder_of(face))
    found = model.predict(face.image, explain=method, expression=wanted(expression), display=DISPLAY)
    return cards.card(found.faces[0], method, "Synthetic face")


def explain_preset(
    served: Served, preset: str, method: str, expression: str, person: float, yaw: float, pitch: float
) -> list[Any]:
    """Card of a face with the units that usually show the expression `preset`, and their intensities for the sliders."""
    intensities = list(synthetic.preset(preset).values())
    return [explain_drawn(served, method, expression, person, yaw, pitch, *intensities), *intensities]


def explain_photo(served: Served, method: str, expression: str, photo: object) -> str:
    """Photo with boxes and a card a face, or what is wrong with it. `photo` is a data URL, as a browser reads a file."""
    if not photo:
        return cards.message(
            "Choose a photo above. It stays in memory while its faces are looked at, and is kept nowhere."
        )
    try:
        picture = read_photo(photo)
    except PictureError as error:
        return cards.message(f"This file cannot be used: {error}.")
    found = served.model.predict(picture, explain=method, expression=wanted(expression), display=DISPLAY)[0]
    return cards.photo_page(picture, found, method)


def wanted(expression: str) -> str | None:
    """None for the predicted expression."""
    return None if expression == PREDICTED else expression


def need_gradio() -> Any:
    """The gradio module with everything switched off that would call home; UsageError that names the extra."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise UsageError(f"mien serve needs '{error.name}': pip install 'mien[page]'.") from error
    return gradio


def build(served: Served, max_bytes: int) -> Any:
    """The page as gradio Blocks."""
    gr = need_gradio()
    choices = [PREDICTED, *served.model.classes]
    with gr.Blocks(title="Mien: expression recognition", analytics_enabled=False) as page:
        gr.HTML(cards.header(served.model.title, served.found_by))
        with gr.Row():
            method = gr.Dropdown(list(served.methods), value=served.methods[0], label="Map of the evidence")
            target = gr.Dropdown(choices, value=PREDICTED, label="Expression that is explained")
        with gr.Tab("Synthetic face"):
            drawn_tab(gr, served, method, target)
        with gr.Tab("Photo"):
            photo_tab(gr, served, method, target, max_bytes)
    return page


def drawn_tab(gr: Any, served: Served, method: Any, target: Any) -> None:
    """Sliders of a face and its card."""
    with gr.Row():
        with gr.Column(scale=5, elem_classes="mien-result"):
            answer = gr.HTML(explain_drawn(served, served.methods[0], PREDICTED, 1, 0, 0, *start_values()))
        with gr.Column(scale=4):
            with gr.Row():
                preset = gr.Dropdown(list(synthetic.PRESETS), value=None, label="Set the sliders to")
                person = gr.Slider(1, synthetic.PEOPLE, value=1, step=1, label="Person", buttons=[])
            sliders = unit_sliders(gr)
            with gr.Accordion("Pose", open=False):
                yaw = gr.Slider(-synthetic.YAW, synthetic.YAW, value=0, step=5, label="Turn (degrees)", buttons=[])
                pitch = gr.Slider(-synthetic.PITCH, synthetic.PITCH, value=0, step=5, label="Nod (degrees)", buttons=[])
    inputs = [method, target, person, yaw, pitch, *sliders]
    settings = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}

    def answer_for(*values: Any) -> str:
        return explain_drawn(served, *values)

    for control in (*sliders, person, yaw, pitch, method, target):
        control.input(answer_for, inputs, answer, **settings)

    def answer_preset(*values: Any) -> list[Any]:
        return explain_preset(served, *values)

    preset.input(answer_preset, [preset, *inputs[:5]], [answer, *sliders], **settings)


def unit_sliders(gr: Any) -> list[Any]:
    """One slider a unit, in the order of `synthetic.UNITS`."""
    sliders = []
    for number, (group, names) in enumerate(synthetic.UNIT_GROUPS.items()):
        with gr.Accordion(group, open=number < 2), gr.Row(elem_classes="mien-sliders"):
            for unit, name in names.items():
                look = {"label": f"{unit} {name}", "elem_id": unit, "min_width": 140, "buttons": []}
                sliders.append(
                    gr.Slider(0, synthetic.STRONGEST, value=synthetic.START.get(unit, 0.0), step=0.5, **look)
                )
    return sliders


def photo_tab(gr: Any, served: Served, method: Any, target: Any, max_bytes: int) -> None:
    """A photo in, its faces out. The browser holds the photo and sends it with each question; no file is uploaded."""
    photo = gr.HTML("", html_template=cards.picker(max_bytes), js_on_load=cards.PICKER_SCRIPT, elem_id="photo")
    answer = gr.HTML(explain_photo(served, served.methods[0], PREDICTED, None))

    def answer_for(*values: Any) -> str:
        return explain_photo(served, *values)

    for event in (photo.change, method.input, target.input):
        event(answer_for, [method, target, photo], answer, api_visibility="private")


def start_values() -> list[float]:
    """Intensities that the page starts with, in the order of `synthetic.UNITS`."""
    return [synthetic.START.get(name, 0.0) for name in synthetic.UNITS]


def launch(served: Served, host: str, port: int, max_bytes: int, rate: int) -> Any:
    """Start the server in a thread; returns the running gradio Blocks. A photo may have `max_bytes`."""
    gr = need_gradio()
    from starlette.middleware import Middleware

    page = build(served, max_bytes)
    page.queue(default_concurrency_limit=1, max_size=32, api_open=False)
    fonts = {"font": ["ui-sans-serif", "system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    limits = Middleware(Limits, max_bytes=request_bytes(max_bytes), rate=rate)
    page.launch(
        server_name=host, server_port=port or None, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
        css=cards.STYLE, theme=gr.themes.Default(primary_hue="blue", **fonts), ssr_mode=False, footer_links=[], pwa=False,
        mcp_server=False, enable_monitoring=False,
        app_kwargs={"middleware": [limits], "docs_url": None, "redoc_url": None},
    )  # fmt: skip
    return page


def run_page(served: Served, host: str, port: int, *, max_bytes: int, rate: int, warn: Callable[[], None]) -> None:
    """Serve until Ctrl-C, with a temporary folder of the page's own that goes with it."""
    with tempfile.TemporaryDirectory(prefix="mien-page-") as folder:  # gradio makes folders; nothing comes into them
        os.environ["GRADIO_TEMP_DIR"] = folder
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that the folder goes
        try:
            page = launch(served, host, port, max_bytes, rate)
        except OSError as error:
            raise UsageError(f"cannot listen at {host}:{port} ({error}); choose another --port.") from error
        warn()
        print(f"{page.local_url} recognises expressions with {served.model.title}; Ctrl-C ends it.", flush=True)
        page.block_thread()
