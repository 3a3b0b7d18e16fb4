"""Points of a face and of its mirror image: how far they disagree."""

import numpy as np
import predict_parts as parts
import pytest
import tiny

from mien.errors import UsageError
from mien.faces.landmarks import FLIP, MESH_TO_68
from mien.faces.mediapipe import CROP, POINTS, Square
from mien.faces.occlusion import mirrored_points, occlusion_of
from mien.faces.provider import Face
from mien.predict import limits
from mien.predict.limits import Limit
from mien.predict.model import load
from mien.training.loop import fit

REGION = Square(60.0, 50.0, 64.0, 0.3)


def mesh(shift: float = 0.0):
    """A net that sees the same symmetric face everywhere, `shift` pixels of its view to the right."""
    seen = tiny.points(CROP)
    symmetric = (seen + np.column_stack([CROP - 1 - seen[list(FLIP), 0], seen[list(FLIP), 1]])) / 2 + 0.5
    points = np.zeros((POINTS, 3), np.float32)
    points[list(MESH_TO_68), :2] = symmetric + np.array([shift, 0])
    return lambda pixels: [points.reshape(1, 1, 1, -1)]


def placed(shift: float) -> np.ndarray:
    """The points of such a net in the picture, by hand."""
    found = []
    for index in MESH_TO_68:
        x, y = (float(v) - CROP / 2 for v in mesh(shift)(None)[0].reshape(POINTS, 3)[index, :2])
        scale, cos, sin = REGION.side / CROP, np.cos(REGION.angle), np.sin(REGION.angle)
        found.append([REGION.x + scale * (cos * x - sin * y) - 0.5, REGION.y + scale * (sin * x + cos * y) - 0.5])
    return np.array(found, np.float32)


@pytest.mark.parametrize("shift", [0.0, 3.0, -7.5])
def test_a_net_that_leans_to_one_side_disagrees_with_its_mirror_image(shift):
    image = np.zeros((100, 120, 3), np.uint8)
    points = placed(shift)
    np.testing.assert_allclose(mirrored_points(image, REGION, mesh(shift)), placed(-shift), atol=1e-3)
    face = Face(np.zeros(4, np.float32), points, 1.0, "mediapipe", region=tuple(REGION))
    wanted = 2 * abs(shift) * REGION.side / CROP / np.linalg.norm(points[45] - points[36])
    assert occlusion_of(image, face, mesh(shift)) == pytest.approx(wanted, abs=1e-4)


def test_a_covered_face_is_outside(tmp_path, monkeypatch):
    fit(tiny.recipe(tiny.store(tmp_path / "store").path, optim={"epochs": 1}), tmp_path / "run")
    monkeypatch.setattr(limits, "read_limits", lambda: {"occlusion": Limit(None, 0.05)})
    model, picture = load(tmp_path / "run", faces=parts.find), parts.picture((20, 20))
    plain = model.predict(picture).to_table().to_pylist()[0]
    assert (plain["occlusion"], plain["outside"]) == (None, None)
    from dataclasses import replace

    covered = replace(model, mirror=lambda image, face: 0.2).predict(picture).to_table().to_pylist()[0]
    assert covered["occlusion"] == 0.2
    assert covered["outside"] == "occlusion 0.2 over 0.05"
    assert covered["abstained"] is True
    with pytest.raises(UsageError, match="occlusion is measured by mediapipe's mesh net"):
        load(tmp_path / "run", faces="none", occlusion=True)
