"""How much of a face is covered, from its aligned pixels."""

from dataclasses import replace

import cv2
import numpy as np
import predict_parts as parts
import pytest
import tiny

from mien.faces.occlusion import COARSE, TONES, covered_share, features
from mien.faces.provider import Face
from mien.faces.quality import quality_of
from mien.predict import limits
from mien.predict.limits import Limit
from mien.predict.model import load
from mien.synthetic.render import render_face
from mien.synthetic.sample import sample_face
from mien.training.loop import fit


def test_tones_by_a_loop():
    view = np.random.default_rng(0).integers(0, 255, (48, 44), dtype=np.uint8)
    found = features(view)
    assert found.shape == (49 * 4 * 8 + COARSE**2,)
    small = cv2.resize(view, (32, 32), interpolation=cv2.INTER_AREA).astype(float)
    tones = np.array([[small[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(16)] for i in range(16)])
    np.testing.assert_allclose(found[-256:], (TONES * (tones - tones.mean()) / (tones.std() + 4)).ravel(), atol=1e-4)


@pytest.mark.parametrize(
    "view", [np.zeros((48, 44), np.uint8), np.full((48, 44), 255, np.uint8), np.eye(48, 44, dtype=np.uint8) * 255]
)
def test_a_share_is_a_share(view):
    assert 0 <= covered_share(view) <= 1


def test_covers_of_synthetic_faces_are_told():
    """Heads that the regressor never saw, plain and in a mask or behind a bar of the rig."""
    shares: dict[str, list[float]] = {"no": [], "mask": [], "bar": []}
    for subject in range(6):
        face = sample_face(11, subject, 6, ("Neutral",))
        for occluder, found in shares.items():
            record = render_face(replace(face, scene=replace(face.scene, occluder=occluder)), 128)
            shown = Face(np.float32([0, 0, 127, 127]), record.landmarks, 1.0, "given")
            found.append(quality_of(record.image, shown).occlusion)
    assert np.median(shares["no"]) < 0.1
    assert np.median(shares["mask"]) > np.median(shares["no"]) + 0.1
    assert np.median(shares["bar"]) > np.median(shares["no"]) + 0.05


def test_a_covered_face_is_outside(tmp_path, monkeypatch):
    fit(tiny.recipe(tiny.store(tmp_path / "store").path, optim={"epochs": 1}), tmp_path / "run")
    monkeypatch.setattr(limits, "read_limits", lambda: {"occlusion": Limit(None, 0.05)})
    monkeypatch.setattr("mien.faces.quality.covered_share", lambda view: 0.2)
    row = load(tmp_path / "run", faces=parts.find).predict(parts.picture((20, 20))).to_table().to_pylist()[0]
    assert (row["occlusion"], row["outside"], row["abstained"]) == (0.2, "occlusion 0.2 over 0.05", True)
