"""The JavaScript example: faces cut to the pixel as Mien cuts them, and in a browser the probabilities of `mien predict`."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from mien.export import face_crop

EXAMPLE = Path(__file__).parent.parent / "examples" / "web"
POINTS = np.float32([[14, 18], [34, 18], [24, 28], [16, 36], [32, 36]])
CUT = """
import { readFileSync, writeFileSync } from 'node:fs';
import { crop } from %s;
const asked = JSON.parse(readFileSync(process.argv[2]));
writeFileSync(process.argv[3], JSON.stringify(asked.map(({ photo, points, about }) =>
  Array.from(crop({ ...photo, data: Uint8Array.from(photo.data) }, points, about)))));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_faces_are_cut_to_the_pixel(tmp_path):
    rng, asked, wanted = np.random.default_rng(4), [], []
    for size, scale, aligned in (
        (48, 1.0, True),
        (48, 3.0, False),
        (48, 0.51, True),
        (48, 0.3, False),
        (24, 0.12, True),
    ):
        framing = {"size": size, "aligned": aligned, "points": (POINTS * size / 48).tolist()}
        photo = rng.integers(0, 256, (131, 203, 3), dtype=np.uint8)
        turn, place = rng.uniform(-3, 3), rng.uniform(0, 140, 2)
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        points = (np.array(framing["points"]) - size / 2) @ spin / scale + place + rng.normal(0, 1, (5, 2))
        wanted.append(face_crop.crop(photo, points, {"framing": framing}).transpose(2, 0, 1))
        asked.append({"photo": {"width": 203, "height": 131, "data": photo.ravel().tolist()}, "points": points.tolist(),
                      "about": {"framing": framing}})  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    (tmp_path / "cut.mjs").write_text(CUT % json.dumps((EXAMPLE / "face.mjs").as_uri()))
    words = ["node", tmp_path / "cut.mjs", tmp_path / "asked.json", tmp_path / "found.json"]
    subprocess.run(words, check=True, timeout=60)
    for one, other in zip(json.loads((tmp_path / "found.json").read_text()), wanted, strict=True):
        np.testing.assert_array_equal(np.array(one).reshape(other.shape), other)


def test_the_example_is_documented():
    text = (EXAMPLE.parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
    assert "examples/web" in text
    assert "MIEN_ORT_WEB" in text
    page = (EXAMPLE / "index.html").read_text(encoding="utf-8")
    asked = set(re.findall(r"'\./([^']+)'", page))
    # What docs/export.md puts there.
    assert asked == {"ort.wasm.min.mjs", "face.mjs", "face.onnx", "face.onnx.json"}


def runtime() -> Path:
    """The folder dist of the npm package onnxruntime-web, which is no part of Mien."""
    folder = Path(os.environ.get("MIEN_ORT_WEB", "node_modules/onnxruntime-web/dist"))
    if not (folder / "ort.wasm.min.mjs").is_file():
        pytest.skip("no onnxruntime-web here; MIEN_ORT_WEB names its folder dist")
    return folder


@pytest.mark.slow
def test_in_a_browser_it_says_what_mien_says(tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("onnxscript")
    found_at, dist = shutil.which("chromium") or shutil.which("google-chrome"), runtime()
    wanted, points, site = exported_site(tmp_path, dist)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = ["--no-sandbox", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found_at, args=words)
        except api.Error as error:
            pytest.skip(f"no Chromium here: {error}")
        tab, errors = browser.new_page(), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(f"http://127.0.0.1:{server.server_address[1]}/index.html")
        try:
            tab.wait_for_selector("body[data-ready]", state="attached", timeout=240_000)
        except api.TimeoutError:
            pytest.fail(f"the page is not ready: {errors}")
        found = tab.evaluate(
            "async (points) => answer(await createImageBitmap(await (await fetch('photo.png')).blob()), points)", points
        )
        browser.close()
    server.shutdown()
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), atol=1e-4)


def exported_site(folder: Path, dist: Path) -> tuple[dict[str, float], list[list[float]], Path]:
    """The example with a tiny model and a photo; what `mien predict --views 1` says of it, and five points of its face."""
    import tiny
    from PIL import Image

    import mien
    from mien.export import export
    from mien.faces.detect import points_box
    from mien.faces.landmarks import five_points
    from mien.faces.provider import Face
    from mien.synthetic.sample import faces
    from mien.training.loop import fit

    run, site = folder / "run", folder / "site"
    fit(tiny.recipe(tiny.store(folder / "store").path, optim={"epochs": 1}), run)
    record = next(faces(7, size=96, subjects=1))
    image = np.full((200, 300, 3), 90, np.uint8)
    image[50:146, 120:216] = record.image
    points = (record.landmarks + np.float32([120, 50])).astype(np.float32)
    site.mkdir()
    for file in EXAMPLE.iterdir():
        shutil.copy(file, site)
    for file in dist.glob("ort*wasm*m*s*"):
        if "bundle" not in file.name and file.suffix != ".map":
            shutil.copy(file, site)
    Image.fromarray(image).save(site / "photo.png")
    export(run, out=site / "face.onnx")
    model = mien.load(run, faces=lambda picture: [Face(points_box(points), points, 1.0, "test")], views=1)
    return dict(model.predict(image).faces[0].probabilities), five_points(points).tolist(), site
