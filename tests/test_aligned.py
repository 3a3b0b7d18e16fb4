"""`mien prepare aligned`: faces of a store laid on the median training face, synthetic faces beside them."""

import numpy as np
import pytest

from mien.cli import main
from mien.data import folds
from mien.data.framing import frame_face, framing_of
from mien.data.store import open_store, write_store
from mien.datasets.prepare import prepare
from mien.errors import DataError, UsageError
from mien.faces.align import similarity
from mien.faces.landmarks import five_points
from mien.synthetic.sample import faces
from mien.synthetic.synthesize import synthesize

SIZE = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Grey faces without a validation part; one has no landmarks, one of train is also in test."""
    kept = list(faces(42, size=SIZE, subjects=6, seed=1))
    kept = [face._replace(split="test" if face.split == "test" else "train", subject=None) for face in kept]
    kept[0] = kept[0]._replace(landmarks=None, visible=None, split="train")
    test = next(face for face in kept if face.split == "test")
    kept.append(test._replace(id="twin", split="train"))
    out = tmp_path_factory.mktemp("root") / "s"
    return write_store(kept, out, dataset="table", size=SIZE, channels=1, notes={"licence": "mine", "faces": "given"})


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "s"
    return open_store(synthesize(out=out, faces=14, size=64, subjects=2, seed=5, workers=1, least_intensity=0.3))


def test_faces_lie_on_the_median_and_synthetic_ones_join_training(root, synthetic, tmp_path):
    words = [
        "--root",
        str(root.path),
        "--synthetic",
        str(synthetic.path),
        "--out",
        str(tmp_path / "f"),
        "--workers",
        "1",
    ]
    assert main(["prepare", "aligned", *words]) == 0
    store, parts = open_store(tmp_path / "f"), folds.strict(root)
    assert (store.info.size, store.info.channels, store.info.dataset) == (SIZE, 1, "table")
    framing = framing_of(root, parts.train)
    target = np.array(framing.points, np.float32)
    for name in ("train", "valid", "test"):
        joined = {f"synthetic/{face}" for face in synthetic.ids} if name == "train" else set()
        rows = {str(root.ids[i]) for i in getattr(parts, name)} | joined
        assert set(store.ids[store.split == name]) == rows
    assert [skipped.id for skipped in store.skipped] == ["twin"]
    where = {str(name): i for i, name in enumerate(root.ids)}
    for i, name in enumerate(store.ids):
        if name in where:
            before = root.landmarks[where[name]]
            if np.isnan(before).any():
                assert np.array_equal(store.image(i), root.image(where[name]))
                continue
            framed = frame_face(root.image(where[name]), before, None, framing, 32)
        else:
            k = list(synthetic.ids).index(name.removeprefix("synthetic/"))
            framed = frame_face(synthetic.image(k), synthetic.landmarks[k], None, framing, 32)
            assert np.array_equal(store.action_units[i], synthetic.action_units[k])
        assert np.abs(store.image(i).astype(int) - framed.pixels).max() <= 1  # as `mien predict` cuts a face of a photo
        np.testing.assert_allclose(store.landmarks[i], framed.landmarks, atol=1e-3)
        left = similarity(five_points(store.landmarks[i]), target)  # the best fit is reached: nothing is left to move
        np.testing.assert_allclose(left, [[1, 0, 0], [0, 1, 0]], atol=1e-3)
    assert (store.info.notes["licence"], store.info.notes["faces"]) == ("mine", "given")
    assert store.info.notes["source"] == root.fingerprint
    assert store.info.notes["synthetic_source"] == synthetic.fingerprint
    again = folds.strict(store, seed=3)  # its validation part is official now
    assert {str(store.ids[i]) for i in again.valid} == {str(root.ids[i]) for i in parts.valid}


def test_what_cannot_be_fitted(root, synthetic, tmp_path):
    blind = write_store(
        [face._replace(landmarks=None, visible=None) for face in faces(14, size=SIZE, subjects=7)],
        tmp_path / "blind", dataset="table", size=SIZE,
    )  # fmt: skip
    with pytest.raises(UsageError, match="leave out --align"):
        prepare("aligned", root=root.path, out=tmp_path / "o", align=True, workers=1)
    for source, more, message in (
        (blind.path, None, "has no landmarks to fit"),
        (root.path, root.path, "not of synthetic faces"),
        (tmp_path / "none", None, "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            prepare("aligned", root=source, out=tmp_path / "o", synthetic=more, workers=1)


def test_some_training_faces_are_there_unaligned_too(root, tmp_path):
    prepare("aligned", root=root.path, out=tmp_path / "w", whole=0.5, workers=1)
    store, where = open_store(tmp_path / "w"), {str(name): i for i, name in enumerate(root.ids)}
    extra = [i for i, name in enumerate(store.ids) if name.startswith("whole/")]
    train = set(store.ids[store.split == "train"])
    assert len(extra) == round(0.5 * (len(train) - len(extra)))
    for i in extra:
        name = str(store.ids[i]).removeprefix("whole/")
        assert store.split[i] == "train"
        assert name in train
        assert np.array_equal(store.image(i), root.image(where[name]))
        np.testing.assert_array_equal(store.landmarks[i], root.landmarks[where[name]])
    assert store.info.notes["whole"] == "0.5"
    with pytest.raises(UsageError, match="--whole 2"):
        prepare("aligned", root=root.path, out=tmp_path / "x", whole=2.0, workers=1)
