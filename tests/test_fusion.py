"""What blendshapes add to a net: maths against loops, unknown ones change nothing, and the fit finds a witness that is right."""

import shutil

import numpy as np
import predict_parts as parts
import pytest
import tiny
import torch

from mien.box import fuse
from mien.errors import DataError
from mien.faces.blendshapes import BLENDSHAPES
from mien.predict.fusion import FILE, Fusion, read_fusion, write_fusion
from mien.predict.model import load
from mien.schema import scheme_classes
from mien.training.loop import fit

CLASSES = scheme_classes("basic-7")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 1}), out)
    return out


def a_fusion(hidden: int = 3) -> Fusion:
    draw = torch.Generator().manual_seed(0)
    shapes = ((hidden, 52), (hidden,), (7, hidden), (7,))
    return Fusion(*(torch.randn(shape, generator=draw) for shape in shapes))


def test_added_against_loops():
    fusion, rows = a_fusion(), torch.rand(2, 52)
    rows = torch.cat([rows, torch.full((1, 52), torch.nan)])
    found = fusion.added(rows)
    for b in range(2):
        hidden = [
            max(0.0, sum(float(fusion.weight1[h, k] * rows[b, k]) for k in range(52)) + float(fusion.bias1[h]))
            for h in range(3)
        ]
        for k in range(7):
            total = sum(float(fusion.weight2[k, h]) * hidden[h] for h in range(3)) + float(fusion.bias2[k])
            assert float(found[b, k]) == pytest.approx(total, abs=1e-4)
    assert found[2].tolist() == [0.0] * 7


def test_prediction_adds_it_where_blendshapes_are_known(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    fusion, shapes = a_fusion(), np.random.default_rng(0).random(52, dtype=np.float32)
    write_fusion(copy, fusion, CLASSES)

    def find(image):
        first, *rest = (face._replace(blendshapes=shapes) for face in parts.find(image))
        wide = np.float32([first.box[0], first.box[1], first.box[0] + 121, first.box[3]])
        return [first._replace(box=wide), *rest]  # the second is small

    picture = parts.picture((20, 20), (90, 30))
    before, after = (load(place, faces=find, device="cpu").predict(picture).faces for place in (run, copy))
    added = fusion.added(torch.from_numpy(shapes)[None])[0]
    expected = (torch.tensor([*before[0].probabilities.values()]).log() + added).softmax(0)
    assert [*after[0].probabilities.values()] == pytest.approx(expected.tolist(), abs=1e-5)
    assert after[1].probabilities == before[1].probabilities
    assert np.array_equal(after[0].blendshapes, shapes)
    explained = load(copy, faces=find, device="cpu").predict(picture, explain="cam").faces
    assert [*explained[0].probabilities.values()] == pytest.approx([*after[0].probabilities.values()], abs=1e-5)
    assert explained[0].explanation.expression == after[0].expression


def test_a_fusion_of_other_weights_is_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    write_fusion(copy, a_fusion(), CLASSES)
    assert read_fusion(run, CLASSES) is None
    with pytest.raises(DataError, match="other weights"):
        read_fusion(copy, CLASSES[:3])
    (copy / "best.ckpt").write_bytes((copy / "best.ckpt").read_bytes() + b" ")
    with pytest.raises(DataError, match="other weights"):
        read_fusion(copy, CLASSES)
    (copy / FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        read_fusion(copy, CLASSES)


def test_the_fit_listens_to_a_witness_that_knows():
    """Blendshapes tell the class, the net guesses: the fused answer is right, also of people left out."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 7, 420)
    shapes = random.random((420, 52), dtype=np.float32) * 0.2
    told = ("jawOpen", "mouthFunnel", "mouthPucker", "cheekPuff", "browInnerUp", "mouthClose", "jawForward")
    shapes[np.arange(420), np.array([BLENDSHAPES.index(name) for name in told])[labels]] += 0.8
    one_hot = np.eye(7, dtype=np.float32)[labels]
    expert = fuse.train_expert(np.tile(shapes, (10, 1)), np.tile(one_hot, (10, 1)))
    guess = np.log(random.dirichlet(np.ones(7), 420)).astype(np.float32)
    seen = fuse.Seen(guess, shapes, one_hot, np.ones(420, np.float32))
    fusion = fuse.weigh(expert, seen, 1.0)
    assert (np.exp(guess).argmax(1) == labels).mean() < 0.3
    assert (fuse.fused(seen, fusion, 1.0).argmax(1) == labels).mean() > 0.9
    base, photos = (fuse.Seen(*(values[part] for values in seen)) for part in (slice(0, 200), slice(200, 420)))
    held = fuse.left_out(expert, base, photos, np.arange(220) // 2, 1.0)
    assert (held.argmax(1) == labels[200:]).mean() > 0.9
    with torch.no_grad():  # merged: A (h - mean h) + c is one layer
        said = fuse.centred(expert(torch.from_numpy(shapes[:5])))
    matrix, offset = torch.randn(7, 7), torch.randn(7)
    torch.testing.assert_close(
        fuse.merged(expert, matrix, offset).added(torch.from_numpy(shapes[:5])), said @ matrix.T + offset
    )


def test_mirror_swaps_left_and_right():
    other = fuse.mirror()
    assert all(other[other[k]] == k for k in range(52))
    assert BLENDSHAPES[other[BLENDSHAPES.index("mouthSmileLeft")]] == "mouthSmileRight"
    assert other[BLENDSHAPES.index("jawOpen")] == BLENDSHAPES.index("jawOpen")
