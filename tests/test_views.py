"""Views of a face: their mean against single passes, guides that are mirrored with the picture, pictures without a face."""

import numpy as np
import predict_parts as parts
import pytest
import tiny
import torch

from mien.data.transforms import normalise
from mien.errors import UsageError
from mien.faces.landmarks import FLIP
from mien.predict.model import load
from mien.predict.views import CLOSER, closer, logits_of, mirrored_guide
from mien.training import checkpoint
from mien.training.loop import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 1}), out)
    return out


def test_logits_are_the_mean_over_the_views(run):
    net, _, _ = checkpoint.load_model(run)
    images = torch.randn(3, 3, tiny.SIZE, tiny.SIZE)
    with torch.no_grad():
        one = net(images).logits
        two = (one + net(images.flip(-1)).logits) / 2
        four = (2 * two + net(closer(images)).logits + net(closer(images.flip(-1))).logits) / 4
    for views, expected in ((1, one), (2, two), (4, four)):
        torch.testing.assert_close(logits_of(net, images, None, views), expected)


def test_closer_against_loops():
    image = torch.arange(36.0).view(1, 1, 6, 6)
    found = closer(image)
    for y in range(1, 5):
        for x in range(1, 5):
            v, u = ((k + 0.5 - 3) / CLOSER + 3 - 0.5 for k in (y, x))  # about the centre; the ramp is linear
            assert float(found[0, 0, y, x]) == pytest.approx(6 * v + u, abs=1e-4)


def test_guides_are_mirrored_too():
    picture = torch.arange(8.0).view(1, 1, 2, 4)
    assert torch.equal(mirrored_guide(picture, 4), picture.flip(-1))
    points = torch.rand(1, 68, 2) * 10
    found = mirrored_guide(points, 10)
    for k in range(68):
        x, y = points[0, FLIP[k]]
        assert found[0, k].tolist() == pytest.approx([9 - float(x), float(y)])
    assert mirrored_guide(None, 4) is None


def test_prediction_takes_two_views_unless_told(run):
    net, _, _ = checkpoint.load_model(run)
    model = load(run, faces=parts.find, device="cpu")
    assert model.views == 2
    for explain in (None, "cam"):
        (face,) = model.predict(parts.picture((20, 20)), display=32, explain=explain, masking=False).faces
        shown = normalise(torch.from_numpy(face.display).permute(2, 0, 1)[None])
        expected = logits_of(net, shown, None, 2).softmax(1)[0].tolist()
        assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UsageError, match="views 3"):
        load(run, views=3)


def test_a_small_picture_without_a_face_is_taken_as_one_and_says_so(run):
    model = load(run, faces=lambda image: [], device="cpu")
    small, large = (np.zeros((side, side, 3), np.uint8) for side in (128, 129))
    found = model.predict([small, large])
    assert [len(picture.faces) for picture in found] == [1, 0]
    assert (found.faces[0].crop, found.faces[0].box) == ("whole", None)
    assert found[0].reason == "no face found; so small a picture was taken as a face itself"
    row = found.to_table().to_pylist()[0]
    assert (row["crop"], row["reason"]) == ("whole", found[0].reason)
