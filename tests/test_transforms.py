"""A face and its landmarks stay together; randomness belongs to (seed, epoch, row) and to nothing else."""

import numpy as np
import pytest
import tiny
import torch

from mien.compat import ensure_torchvision
from mien.config import AugmentConfig
from mien.data.loader import Loader
from mien.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    change_faces,
    draw_changes,
    luma,
    normalise,
    resize_faces,
    uniform,
)
from mien.faces.landmarks import FLIP

ensure_torchvision()
from torchvision.transforms.v2 import functional as VF  # noqa: E402

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


def changed(images, landmarks, size=96, seed=0, **augment):
    """Batch (B, 3, H, W) resized and changed at random, its landmarks too, and the changes."""
    images, landmarks = resize_faces(images, landmarks, size)
    changes = draw_changes(AugmentConfig(**{**STILL, **augment}), uniform(seed, 1, np.arange(len(images))))
    if changes is None:
        return images, landmarks, None
    return (*change_faces(images, landmarks, changes), changes)


@pytest.mark.parametrize("size", [48, 96, 150])
@pytest.mark.parametrize("name", CHANGES)
def test_dot_and_landmark_stay_together(name, size):
    dots, points = dot(40.0, 55.0).repeat(6, 1, 1, 1), at(40.0, 55.0).repeat(6, 1, 1)
    pictures, points, _ = changed(dots, points, size, **CHANGES[name])
    assert pictures.shape == (6, 3, size, size)
    assert pictures.dtype == torch.uint8
    for picture, marks in zip(pictures, points, strict=True):
        known = marks[torch.isfinite(marks).all(1)]
        assert len(known) == 1
        # a dot of few grey levels is itself known to a few hundredths of a pixel
        assert np.abs(centre(picture) - known[0].numpy()).max() < 0.1 * max(1.0, size / 96)


def test_resize_formula():
    _, points = resize_faces(dot(40, 55)[None], at(40.0, 55.0)[None], 48)
    assert points[0, 30].tolist() == pytest.approx([(40.5 / 2) - 0.5, (55.5 / 2) - 0.5], abs=1e-4)


def test_flip_swaps_left_and_right():
    face = torch.from_numpy(tiny.points(96))
    _, points, _ = changed(dot(1, 1)[None], face[None], flip=1.0)
    for k in range(68):
        assert points[0, k].tolist() == pytest.approx([95 - float(face[FLIP[k], 0]), float(face[FLIP[k], 1])], abs=1e-4)
    assert points[0, 36, 0] < points[0, 45, 0]  # the left eye is still the left one


def test_unknown_points_stay_unknown_and_far_points_are_not_clipped():
    points = at(-20.0, 200.0)
    points[3] = torch.tensor([5.0, float("nan")])
    for name, change in CHANGES.items():
        _, moved, _ = changed(dot(40, 55)[None], points[None], 48, **change)
        index = FLIP.index(30) if name == "flip" else 30
        assert torch.isfinite(moved[0]).all(1).sum() == (1 if name != "all" else torch.isfinite(moved[0]).all(1).sum())
        if name == "resize":
            assert moved[0, index].tolist() == pytest.approx([-10.25, 99.75], abs=1e-3)
        assert moved[0, torch.isfinite(moved[0]).all(1)][0, 1] > 48


def faces_in_colour(count=8, side=40):
    generator = torch.Generator().manual_seed(3)
    small = torch.randint(0, 256, (count, 3, side // 4, side // 4), dtype=torch.uint8, generator=generator)
    return VF.resize(small, [side, side])


@pytest.mark.parametrize("augment", [
    {"rotation": 30.0}, {"translate": 0.2}, {"scale": 0.3}, {"rotation": 15.0, "translate": 0.1, "scale": 0.2, "flip": 0.5},
    {"jitter": 0.4}, {"grayscale": 0.5}, {"erase": 0.5},
    {"flip": 0.5, "rotation": 9.0, "translate": 0.1, "scale": 0.1, "jitter": 0.3, "grayscale": 0.3, "erase": 0.3},
])  # fmt: skip
def test_each_face_as_by_torchvision(augment):
    """The twin: face by face, with the functions of torchvision that the docs name."""
    images = faces_in_colour()
    pictures, _, changes = changed(images, torch.full((8, 68, 2), float("nan")), side := 40, **augment)
    assert len({picture.numpy().tobytes() for picture in pictures}) > 1
    for k, image in enumerate(images):
        if changes.flip[k]:
            image = VF.horizontal_flip(image)
        linear, shift = changes.matrix[k, :, :2], changes.matrix[k, :, 2] * side / 2
        zoom = float(linear.det().sqrt())
        angle = float(torch.rad2deg(torch.atan2(linear[1, 0], linear[0, 0])))
        image = VF.affine(image.float(), angle, shift.tolist(), zoom, [0.0, 0.0], VF.InterpolationMode.BILINEAR)
        image = VF.adjust_brightness(image / 255, float(changes.brightness[k]))
        image = VF.adjust_contrast(image, float(changes.contrast[k]))
        image = VF.adjust_saturation(image, float(changes.saturation[k])) * 255
        if changes.grey[k]:
            image = VF.rgb_to_grayscale(image, 3)
        left, top, right, bottom = (torch.round(changes.box[k] * side - 1e-4)).int().tolist()
        image = VF.erase(image, top, left, bottom - top, right - left, torch.zeros(()))
        assert (pictures[k].float() - image).abs().max() <= 1.0


def test_draws_fill_their_ranges_evenly():
    augment = AugmentConfig(flip=0.3, rotation=20, translate=0.1, scale=0.2, jitter=0.4, grayscale=0.2, erase=0.6)
    changes = draw_changes(augment, uniform(0, 1, np.arange(4000)))
    assert float(changes.flip.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert float(changes.grey.float().mean()) == pytest.approx(0.2, abs=0.03)
    zoom = changes.matrix[:, :, :2].det().sqrt()
    for values, low, high in ((zoom, 0.8, 1.2), (changes.brightness, 0.6, 1.4), (changes.saturation, 0.8, 1.2),
                              (changes.matrix[:, 0, 2] / 2, -0.1, 0.1)):  # fmt: skip
        assert low <= float(values.min()) < low + 0.01 * (high - low)
        assert high >= float(values.max()) > high - 0.01 * (high - low)
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    left, top, right, bottom = changes.box[changes.box.any(1)].unbind(1)
    assert len(left) / 4000 == pytest.approx(0.6, abs=0.03)
    area = (right - left) * (bottom - top)
    assert float(area.min()) >= 0.02 - 1e-6
    assert float(area.max()) <= 0.2 + 1e-6
    assert (changes.box >= 0).all()
    assert (changes.box <= 1 + 1e-6).all()
    assert abs(float(torch.corrcoef(uniform(0, 1, np.arange(4000)).T).fill_diagonal_(0).abs().max())) < 0.07


def test_erasing_changes_pixels_only():
    pictures, points, _ = changed(dot(40, 55)[None] + 5, at(40.0, 55.0)[None], erase=1.0)
    assert (pictures == 0).any()
    assert points[0, 30].tolist() == pytest.approx([40, 55], abs=1e-4)


def test_luma_in_memory_is_changed_like_colour():
    """A picture that is kept as luma gets the same light as the colour it comes from, up to rounding."""
    images, marks = faces_in_colour(), torch.full((8, 68, 2), float("nan"))
    augment = {"rotation": 9.0, "flip": 0.5, "erase": 0.5, "jitter": 0.05}
    from_colour, _, changes = changed((images // 2) + 60, marks, 40, **augment)
    from_luma, _ = change_faces(luma((images // 2) + 60), marks, changes)
    assert (luma(from_colour).int() - from_luma.int()).abs().max() <= 2


def test_randomness_belongs_to_seed_epoch_and_row(store):
    def face(seed, epoch, row, before=()):
        rows, targets = np.array([*before, row]), np.zeros(len(store), np.int64)
        options = {"augment": AugmentConfig(), "seed": seed, "epoch": epoch}
        (batch,) = Loader(store, rows, targets, size=32, batch=8, device=torch.device("cpu"), **options)
        return batch.images[-1]

    first = face(0, 1, 3)
    assert torch.equal(first, face(0, 1, 3, before=(7, 1)))
    assert not torch.equal(first, face(1, 1, 3))
    assert not torch.equal(first, face(0, 2, 3))


def test_evaluation_has_no_randomness(store):
    rows, targets = np.array([4]), np.zeros(len(store), np.int64)
    (batch,) = Loader(store, rows, targets, size=store.info.size, batch=8, device=torch.device("cpu"))
    assert batch.rows.tolist() == [4]
    assert torch.equal(batch.images, normalise(torch.from_numpy(store.images(rows)).permute(0, 3, 1, 2)))
    assert np.allclose(batch.landmarks, store.landmarks[rows], atol=1e-4)


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
