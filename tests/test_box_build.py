"""`mien box build` from a small FER-2013 of synthetic faces: every step, once more without doing it again."""

import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from mien.box import build as steps
from mien.calibrate import calibrate
from mien.cli import main
from mien.datasets.fer2013 import FER_PLUS, LABELS
from mien.errors import DataError
from mien.faces.mediapipe import find_bundle
from mien.predict.model import load
from mien.synthetic.render import render_face
from mien.synthetic.sample import sample_face

RECIPE = """
data: {targets: both, valid_fraction: 0.3}
model: {backbone: small_resnet, size: 32, channels: [8, 16], preprocessing: grey}
guidance: {weight: 1.0}
optim: {epochs: 2, sizes: [[24, 0.5]], batch: 8, select: last}
run: {accelerator: cpu, in_memory: true}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    try:
        find_bundle()
    except DataError:
        pytest.skip("no face_landmarker.task on this machine")
    folder = tmp_path_factory.mktemp("box")
    with (
        open(folder / "fer2013.csv", "w", newline="") as faces,
        open(folder / "fer2013new.csv", "w", newline="") as votes,
    ):
        rows, ballots = csv.writer(faces), csv.writer(votes)
        rows.writerow(["emotion", "pixels", "Usage"])
        ballots.writerow(["Usage", "Image name", *FER_PLUS])
        for k in range(56):
            name, usage = LABELS[k % 7], "PublicTest" if k >= 42 else "Training"
            image = render_face(sample_face(k, k, 48, (name,)), 48).image
            pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            rows.writerow([LABELS.index(name), " ".join(map(str, pixels.ravel())), usage])
            ballots.writerow([usage, f"{k}.png", *[8 * (one == name.lower()) + (one == "neutral") for one in FER_PLUS]])
    with open(folder / "index.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "expression", "subject"])
        for k in range(8):
            name = ("Neutral", "Happiness")[k % 2]
            Image.fromarray(render_face(sample_face(9, k // 2, 96, (name,)), 96).image).save(folder / f"{k}.png")
            table.writerow([f"{k}.png", name, f"person{k // 2}"])
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def easily(run, accuracy=0.01, **options):
    return calibrate(run, accuracy=0.01, **options)


def test_every_step_and_again(place, monkeypatch, capsys):
    monkeypatch.setattr(steps, "PART", 40)
    monkeypatch.setattr(steps, "calibrate", easily)  # two epochs teach little
    work, recipe = place / "work", place / "recipe.yaml"
    words = ["box", "build", "--root", str(place / "fer2013.csv"), "--work", str(work), "--recipe", str(recipe)]
    assert main([*words, "--photos", str(place / "index.csv")]) == 0
    out = place / "work" / "weights" / "expression"
    made = {"best.ckpt", "config.yaml", "environment.json", "model-card.md"}
    made |= {"calibration.json", "labels.json", "fusion.ckpt", "fusion.json"}
    assert {path.name for path in out.iterdir()} == made
    assert sorted(path.name for path in (place / "work" / "blendshapes").iterdir()) == ["000000.npz", "000040.npz"]
    card = (out / "model-card.md").read_text()
    assert all(words in card for words in ("Calibration `labels`", "Fusion with blendshapes", "4 people", "Hard cases"))
    facts = json.loads((out / "fusion.json").read_text())
    assert set(facts["photos"]["net alone"]) == {"Neutral", "Happiness"}
    model = load(out, device="cpu")
    assert model.fusion is not None
    found = model.predict(place / "1.png").faces[0]
    assert found.blendshapes.shape == (52,)
    assert np.isclose(sum(found.probabilities.values()), 1, atol=1e-5)
    before = (place / "work" / "expression" / "best.ckpt").stat().st_mtime_ns
    assert main([*words, "--photos", str(place / "index.csv")]) == 0  # nothing is prepared or trained again
    assert (place / "work" / "expression" / "best.ckpt").stat().st_mtime_ns == before
    assert json.loads((out / "fusion.json").read_text()) == facts
