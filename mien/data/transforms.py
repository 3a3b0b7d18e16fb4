"""Random changes of a training face, by torchvision's v2 transforms, with the landmarks on board."""

from __future__ import annotations

import torch
from torch import Tensor

from mien.compat import ensure_torchvision
from mien.config import AugmentConfig
from mien.faces.landmarks import FLIP
from mien.schema import PREPROCESSING, ByteArray

ensure_torchvision()
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402
from torchvision.transforms.v2 import functional as VF  # noqa: E402

IMAGENET_MEAN, IMAGENET_STD = PREPROCESSING["imagenet"].mean, PREPROCESSING["imagenet"].std
_HALF_PIXEL = 0.5


class FaceTransform:
    """uint8 face and landmarks -> augmented uint8 face and landmarks at `size`. Randomness is torch's current generator.

    torchvision measures points from the corner of the first pixel when it resizes or turns them; ours measure from its
    centre, hence the half pixel on the way in and out. A flip also swaps left and right landmark indices. Points that
    leave the frame keep their coordinates; unknown points stay NaN.
    """

    def __init__(self, size: int, augment: AugmentConfig | None = None) -> None:
        self.flip = augment.flip if augment else 0.0
        steps: list[v2.Transform] = [v2.Resize((size, size), antialias=True)]
        if augment:
            steps += _random_steps(augment)
        self.steps = v2.Compose(steps)
        self.erase = v2.RandomErasing(augment.erase, scale=(0.02, 0.2)) if augment and augment.erase else None

    def __call__(self, image: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 and (68, 2) float -> (3, size, size) uint8 and (68, 2) float; without changes also in batches."""
        if self.flip and torch.rand(()) < self.flip:
            image = VF.horizontal_flip(image)
            landmarks = torch.stack([image.shape[-1] - 1 - landmarks[:, 0], landmarks[:, 1]], dim=1)[list(FLIP)]
        points = tv_tensors.KeyPoints(landmarks + _HALF_PIXEL, canvas_size=tuple(image.shape[-2:]))
        picture, points = self.steps(tv_tensors.Image(image), points)
        if self.erase is not None:  # pixels only; in the Compose it would warn about the points
            picture = self.erase(picture)
        return picture.as_subclass(Tensor), points.as_subclass(Tensor) - _HALF_PIXEL


def _random_steps(augment: AugmentConfig) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if augment.rotation or augment.translate or augment.scale:
        steps.append(
            v2.RandomAffine(
                augment.rotation,
                translate=(augment.translate, augment.translate),
                scale=(1 - augment.scale, 1 + augment.scale),
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if augment.jitter:
        steps.append(v2.ColorJitter(augment.jitter, augment.jitter, augment.jitter / 2))
    if augment.grayscale:
        steps.append(v2.RandomGrayscale(augment.grayscale))
    return steps


def luma(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8, the ITU-R 601 luma as Pillow rounds it."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8)


def normalise(images: Tensor, preprocessing: str = "imagenet") -> Tensor:
    """(B, 3, H, W) uint8 RGB, or (B, 1, H, W) luma for grey -> (B, 3, H, W) float32 as the weights expect it, on the images' device.

    `preprocessing` is a key of schema.PREPROCESSING; its steps are (pixel / scale - mean) / std, in the order of the net's
    channels; grey is made once and seen three times. The result lies in memory channel by channel of a pixel
    (channels_last), which convolutions on a CPU are several times faster with.
    """
    steps = PREPROCESSING[preprocessing]
    pixels = (
        (images if images.shape[1] == 1 else luma(images)) if steps.grey else images.flip(1) if steps.bgr else images
    )
    count = pixels.shape[1]
    mean = torch.tensor(steps.mean[:count], device=images.device).view(1, count, 1, 1)
    std = torch.tensor(steps.std[:count], device=images.device).view(1, count, 1, 1)
    result = ((pixels.float() / steps.scale - mean) / std).contiguous(memory_format=torch.channels_last)
    return result.expand(-1, 3, -1, -1)


def denormalised(images: Tensor, preprocessing: str = "imagenet") -> Tensor:
    """(B, 3, H, W) RGB in [0, 1] of what `normalise` made, up to the masking or mixing since."""
    steps = PREPROCESSING[preprocessing]
    mean = torch.tensor(steps.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(steps.std, device=images.device).view(1, 3, 1, 1)
    pixels = (images.float() * std + mean) * (steps.scale / 255)
    return (pixels.flip(1) if steps.bgr else pixels).clamp(0, 1)


def as_pictures(images: ByteArray) -> Tensor:
    """RGB (B, H, W, 3) uint8 of a store -> (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
