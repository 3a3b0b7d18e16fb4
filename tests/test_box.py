"""The bundled model: whole, small, without places of the machine that made it, and of use without a run."""

import hashlib
import re

import numpy as np

import mien
from mien.faces.detect import points_box
from mien.faces.provider import Face
from mien.predict.bundled import WEIGHTS
from mien.predict.calibration import read_calibration
from mien.schema import scheme_classes
from mien.synthetic.render import render_face
from mien.synthetic.sample import sample_face


def test_files_are_those_of_the_list_and_small():
    listed = dict(line.split("  ")[::-1] for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines())
    found = {path.relative_to(WEIGHTS).as_posix(): path for path in WEIGHTS.rglob("*") if path.is_file()}
    assert found.keys() == {*listed, "SHA256SUMS"}
    assert all(hashlib.sha256(found[name].read_bytes()).hexdigest() == sha for name, sha in listed.items())
    assert sum(path.stat().st_size for path in found.values()) <= 4_000_000
    texts = [path.read_text() for path in found.values() if path.suffix != ".ckpt"]
    assert not any(re.search(r"(^|[\s\"'])/\w+/", text) for text in texts)


def test_finds_the_smile_of_a_drawn_face():
    pictures = [render_face(sample_face(0, k, 96, (name,))) for k in range(12) for name in ("Happiness", "Sadness")]
    marks = {picture.image.tobytes(): picture.landmarks for picture in pictures}
    model = mien.load(faces=lambda image: [Face(points_box(at := marks[image.tobytes()]), at, 1.0, "given")])
    assert model.classes == scheme_classes("basic-7")
    assert model.action_units == ()  # this finder has no blendshapes
    assert model.calibration == read_calibration(WEIGHTS / "expression", model.classes)
    found = model.predict([picture.image for picture in pictures], explain="cam", masking=False)
    happy = np.array([picture.faces[0].probabilities["Happiness"] for picture in found]).reshape(12, 2)
    assert happy[:, 0].mean() > happy[:, 1].mean()
    assert all(picture.faces[0].explanation.words for picture in found)


def test_only_units_that_carry_over_to_photos_are_named():
    from mien.audet.photos import open_reader, reading_of

    reader = open_reader(WEIGHTS / "action_units")
    assert reader.reads == ("AU12",)
    units = reader.net.action_units
    smile, frown = (np.array([float(name == one) for name in units], np.float32) for one in ("AU12", "AU4"))
    expressions = scheme_classes("basic-7")
    assert reading_of(reader, smile, "corrected", expressions).text == "AU12 1.0"
    assert reading_of(reader, frown, "corrected", expressions).text == ""
    everything = reader._replace(reads=tuple(units))
    assert reading_of(everything, frown, "corrected", expressions).text.startswith("AU4 1.0 -> ")
