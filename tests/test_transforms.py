"""A face and its landmarks stay together; randomness belongs to (seed, epoch, row) and to nothing else."""

import numpy as np
import pytest
import tiny
import torch

from mien.config import AugmentConfig
from mien.data.loader import Faces, Loader
from mien.data.transforms import IMAGENET_MEAN, IMAGENET_STD, FaceTransform, normalise
from mien.faces.landmarks import FLIP

STILL = {"flip": 0.0, "rotation": 0.0, "translate": 0.0, "scale": 0.0, "jitter": 0.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("data") / "store", each=2)


def dot(x: float, y: float, size: int = 96, sigma: float = 2.5) -> torch.Tensor:
    """A bright soft dot on black, (3, size, size) uint8."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    blob = 250 * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return blob.round().to(torch.uint8).expand(3, -1, -1).contiguous()


def centre(image: torch.Tensor) -> np.ndarray:
    """Centre of brightness (x, y), pixel centres at .0."""
    grey = image.float().mean(0)
    rows, columns = torch.meshgrid(torch.arange(grey.shape[0]), torch.arange(grey.shape[1]), indexing="ij")
    return np.array([float((grey * at).sum() / grey.sum()) for at in (columns, rows)])


def at(x: float, y: float, index: int = 30) -> torch.Tensor:
    points = torch.full((68, 2), float("nan"))
    points[index] = torch.tensor([x, y])
    return points


CHANGES = {
    "resize": STILL,
    "flip": {**STILL, "flip": 1.0},
    "rotation": {**STILL, "rotation": 25.0},
    "translate": {**STILL, "translate": 0.1},
    "scale": {**STILL, "scale": 0.2},
    "all": {"flip": 0.5, "rotation": 20.0, "translate": 0.08, "scale": 0.15, "jitter": 0.0},
}


@pytest.mark.parametrize("size", [48, 96, 150])
@pytest.mark.parametrize("name", CHANGES)
def test_dot_and_landmark_stay_together(name, size):
    for seed in range(6):
        torch.manual_seed(seed)
        picture, points = FaceTransform(size, AugmentConfig(**CHANGES[name]))(dot(40.0, 55.0), at(40.0, 55.0))
        assert picture.shape == (3, size, size)
        assert picture.dtype == torch.uint8
        known = points[torch.isfinite(points).all(1)]
        assert len(known) == 1
        # a dot of few grey levels is itself known to a few hundredths of a pixel
        assert np.abs(centre(picture) - known[0].numpy()).max() < 0.1 * max(1.0, size / 96)


def test_resize_formula():
    _, points = FaceTransform(48)(dot(40, 55), at(40.0, 55.0))
    assert points[30].tolist() == pytest.approx([(40.5 / 2) - 0.5, (55.5 / 2) - 0.5], abs=1e-4)


def test_flip_swaps_left_and_right():
    face = torch.from_numpy(tiny.points(96))
    _, points = FaceTransform(96, AugmentConfig(**CHANGES["flip"]))(dot(1, 1), face)
    for k in range(68):
        assert points[k].tolist() == pytest.approx([95 - float(face[FLIP[k], 0]), float(face[FLIP[k], 1])], abs=1e-4)
    assert points[36, 0] < points[45, 0]  # the left eye is still the left one


def test_unknown_points_stay_unknown_and_far_points_are_not_clipped():
    points = at(-20.0, 200.0)
    points[3] = torch.tensor([5.0, float("nan")])
    for name, change in CHANGES.items():
        torch.manual_seed(0)
        _, moved = FaceTransform(48, AugmentConfig(**change))(dot(40, 55), points)
        index = FLIP.index(30) if name == "flip" else 30
        assert torch.isfinite(moved).all(1).sum() == 1
        if name == "resize":
            assert moved[index].tolist() == pytest.approx([-10.25, 99.75], abs=1e-3)
        assert moved[index, 1] > 48
    assert torch.isnan(moved[0]).all()


def test_erasing_changes_pixels_only(recwarn):
    torch.manual_seed(0)
    picture, points = FaceTransform(96, AugmentConfig(**{**STILL, "erase": 1.0}))(dot(40, 55) + 5, at(40.0, 55.0))
    assert (picture == 0).any()
    assert points[30].tolist() == pytest.approx([40, 55], abs=1e-4)
    assert not recwarn.list


def test_grey_and_jitter_keep_points():
    torch.manual_seed(0)
    colour = torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)
    picture, points = FaceTransform(96, AugmentConfig(**{**STILL, "grayscale": 1.0, "jitter": 0.4}))(
        colour, at(3.0, 4.0)
    )
    assert torch.equal(picture[0], picture[2])
    assert points[30].tolist() == pytest.approx([3, 4], abs=1e-4)


def test_randomness_belongs_to_seed_epoch_and_row(store):
    def face(seed, epoch, row, before=()):
        faces = Faces(store, 32, AugmentConfig(), seed)
        faces.epoch = epoch
        for other in before:
            faces[other]
        return faces[row][0]

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = face(0, 1, 3)
    assert torch.equal(first, face(0, 1, 3, before=(7, 1)))
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's randomness is touched
    assert not torch.equal(first, face(1, 1, 3))
    assert not torch.equal(first, face(0, 2, 3))


def test_evaluation_has_no_randomness(store):
    faces = Faces(store, store.info.size)
    picture, points, row = faces[4]
    assert row == 4
    assert torch.equal(picture, torch.from_numpy(store.image(4)).permute(2, 0, 1))
    assert np.allclose(points, store.landmarks[4], atol=1e-4)


@pytest.mark.slow
def test_loader_does_not_depend_on_workers(store):
    def batches(workers):
        loader = Loader(
            store, np.arange(20), np.arange(len(store)), size=32, batch=8, device=torch.device("cpu"),
            augment=AugmentConfig(), seed=3, epoch=2, workers=workers,
        )  # fmt: skip
        return list(loader)

    for first, second in zip(batches(0), batches(2), strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.landmarks, second.landmarks)


def test_batches_follow_the_rows(store):
    rows = np.array([5, 2, 9])
    targets = np.arange(len(store)) * 10
    (batch,) = Loader(store, rows, targets, size=32, batch=8, device=torch.device("cpu"))
    assert batch.rows.tolist() == rows.tolist()
    assert batch.expressions.tolist() == [50, 20, 90]
    assert np.allclose(batch.landmarks, store.landmarks[rows], atol=1e-4)
    first = torch.from_numpy(store.images(rows)).permute(0, 3, 1, 2)
    assert torch.allclose(batch.images, normalise(first))


def test_last_small_batch_is_dropped_only_when_there_is_another(store):
    def sizes(count):
        options = {"size": 32, "batch": 8, "device": torch.device("cpu"), "drop_last": True}
        return [len(b.rows) for b in Loader(store, np.arange(count), np.zeros(len(store), np.int64), **options)]

    assert sizes(17) == [8, 8]
    assert sizes(5) == [5]


def test_normalise_twin():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    out = normalise(images)
    for b in range(2):
        for c in range(3):
            expected = (images[b, c].double() / 255 - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
            assert torch.allclose(out[b, c].double(), expected, atol=1e-6)
