"""Otsu's threshold and faces masked by a cue: twins, OpenCV and torchvision where they overlap, corners."""

import cv2
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from mien import maps
from mien.config import CueConfig, MaskConfig, Recipe
from mien.data.masking import dilate, fill_colour, gaussian_blur, label_leak, make_masking, mask_images, mean_pixel
from mien.data.transforms import normalise
from mien.errors import UsageError
from mien.schema import Cue


def pictures(seed: int) -> np.ndarray:
    """Grey 8-bit pictures that use their whole range: noise, blobs, two levels, a ramp."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (12, 17))
    blobs = cv2.GaussianBlur((rng.random((12, 17)) > 0.8).astype(np.float32), (5, 5), 1.3)
    two = np.where(rng.random((12, 17)) > 0.3, 200, 30)
    ramp = np.arange(12 * 17).reshape(12, 17)
    made = []
    for picture in (noise, blobs, two, ramp):
        low, high = picture.min(), picture.max()
        made.append(np.round((picture - low) / (high - low) * 255).astype(np.uint8))
    return np.stack(made)


def otsu_twin(values: list[int]) -> int:
    """Otsu 1979 over all splits: the last level of the background."""
    best, cut = -1.0, 0
    for t in range(255):
        below, above = [v for v in values if v <= t], [v for v in values if v > t]
        if below and above:
            gap = sum(below) / len(below) - sum(above) / len(above)
            between = len(below) * len(above) * gap**2
            if between > best * (1 + 1e-12):
                best, cut = between, t
    return cut


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_opencvs_and_its_definition(seed: int) -> None:
    grey = pictures(seed)
    region = maps.otsu_region(torch.from_numpy(grey / 255.0)[:, None].float())[:, 0].numpy()
    for picture, mine in zip(grey, region, strict=True):
        _, theirs = cv2.threshold(picture, 0, 255, cv2.THRESH_OTSU)
        assert (mine == (theirs > 0)).all()
        assert (mine == (picture > otsu_twin(picture.flatten().tolist()))).all()


def test_otsu_follows_scale_and_offset_and_treats_each_map_by_itself() -> None:
    map_ = torch.from_numpy(pictures(0) / 255.0)[:, None].float()
    assert torch.equal(maps.otsu_region(0.01 * map_ + 0.4), maps.otsu_region(map_))
    assert torch.equal(maps.otsu_region(map_)[2:3], maps.otsu_region(map_[2:3]))


def test_otsu_of_constant_maps() -> None:
    region = maps.otsu_region(torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)]))
    assert not region[0].any()
    assert region[1].all()


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_dilation_is_opencvs_with_a_disk(radius: int) -> None:
    region = np.random.default_rng(0).random((20, 31)) > 0.96
    steps = np.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)
    theirs = cv2.dilate(region.astype(np.uint8), disk) > 0
    assert (dilate(torch.from_numpy(region)[None, None], radius)[0, 0].numpy() == theirs).all()


def test_blur_is_torchvisions() -> None:
    from torchvision.transforms.v2 import functional as VF

    images = torch.rand(2, 3, 24, 20)
    for sigma in (0.6, 2.5):
        side = 2 * int(np.ceil(3 * sigma)) + 1
        theirs = VF.gaussian_blur(images, [side, side], [sigma, sigma])
        assert torch.allclose(gaussian_blur(images, sigma), theirs, atol=1e-5)
    assert torch.allclose(gaussian_blur(torch.full((1, 3, 8, 8), 0.3), 2.4), torch.tensor(0.3))


def masked_example(fill: str, dilation: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, their masked copies and the region; face 0 is chosen, 1 has no cue, 2 is not chosen."""
    images = torch.rand(3, 3, 16, 16)
    cue = torch.zeros(3, 1, 16, 16)
    cue[:, :, 4:8, 4:8] = 1
    config = MaskConfig(train=1.0, fill=fill, dilation=dilation)
    colour = torch.tensor([0.1, 0.2, 0.3])
    chosen = torch.tensor([True, True, False])
    out = mask_images(images, Cue(cue, torch.tensor([True, False, True])), chosen, config, colour)
    return images, out, cue[0, 0] > 0


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
def test_only_chosen_faces_with_a_cue_change_and_only_outside_the_region(fill: str) -> None:
    images, out, region = masked_example(fill)
    assert torch.equal(out[1:], images[1:])
    assert torch.equal(out[0, :, region], images[0, :, region])
    expected = gaussian_blur(images, 0.125 * 16)[0] if fill == "blur" else torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert torch.equal(out[0, :, ~region], expected.expand(3, 16, 16)[:, ~region])


def test_dilation_shows_more() -> None:
    changed = [(out[0] != images[0]).any(0).sum().item() for images, out, _ in map(masked_example, ["black"])]
    images, out, _ = masked_example("black", dilation=0.125)
    assert (out[0] != images[0]).any(0).sum() < changed[0]
    assert torch.equal(out[0, :, 2, 5], images[0, :, 2, 5])


def test_the_mean_pixel_is_rgb(tmp_path) -> None:
    store = tiny.store(tmp_path / "s")
    rows = np.arange(11)
    pictures = np.stack([store.image(row) for row in rows]).astype(float)
    mean = mean_pixel(store, rows)
    assert mean == pytest.approx([pictures[..., c].mean() for c in range(3)])
    recipe = tiny.recipe(tmp_path / "s", mask={"train": 0.5, "fill": "mean"})
    assert fill_colour(recipe, store, rows) == mean
    masking = make_masking([255.0, 0.0, 0.0], None, torch.device("cpu"))
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert torch.equal(masking.colour, normalise(red).flatten())


def test_colours_of_other_fills() -> None:
    from dataclasses import replace

    assert fill_colour(Recipe(), None, np.arange(3)) is None
    assert fill_colour(replace(Recipe(), mask=MaskConfig(train=1.0)), None, np.arange(3)) == [0, 0, 0]
    with pytest.raises(UsageError, match=r"mask\.sigma is 0\.5"):
        MaskConfig(sigma=0.5)


@pytest.mark.parametrize(
    ("mask", "cue", "leak"),
    [
        ({"evaluate": True}, {}, True),
        ({"train": 1.0}, {}, False),
        ({"evaluate": True}, {"kind": "landmarks"}, False),
        ({"evaluate": True}, {"kind": "au_generic"}, False),
        ({"evaluate": True}, {"control": "inverted"}, True),
        ({"evaluate": True}, {"control": "mean"}, False),
    ],
)
def test_label_leak(mask: dict, cue: dict, leak: bool) -> None:
    from dataclasses import replace

    assert label_leak(replace(Recipe(), mask=MaskConfig(**mask), cue=CueConfig(**cue))) is leak
