"""What places the picture before the backbone sees it: spatial transformers, free, guided or in closed form.

Jaderberg et al. 2015 (arXiv 1506.02025); guided by masks of landmarks or saliency: Luna-Jimenez et al. 2021 (doi
10.3390/app11167217). Each is called as module(images, guide) -> (picture for the backbone, theta or None); theta (B, 2, 3)
maps places of that picture to places of the image, both from -1 to 1 between the outer edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.config import TransformerConfig
from mien.errors import UsageError
from mien.maps import numbers
from mien.schema import LANDMARKS, PREPROCESSING

STABLE = (*range(27, 36), 36, 39, 42, 45)
"""iBUG-68 points that expressions hardly move: bridge and base of the nose, corners of the eyes."""
SMALLEST = 18
"""Least side in pixels that leaves the localisation net one cell."""


class Placing(Protocol):
    """What the transformers below have in common."""

    def __call__(self, images: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, C, H, W) and what `Batch.guide` holds -> the same size, theta (B, 2, 3) or None."""

    def blank(self, images: Tensor) -> Tensor | None:
        """The guide of faces about which nothing is known; None where none is wanted."""


def identity_theta(batch: int, like: Tensor) -> Tensor:
    """(B, 2, 3) that leaves the picture as it is."""
    return torch.eye(2, 3, dtype=like.dtype, device=like.device).repeat(batch, 1, 1)


def theta_of(numbers: Tensor, config: TransformerConfig) -> Tensor:
    """What the localisation net says as theta, (B, 6 or 4) -> (B, 2, 3); `start_of(config)` gives the identity.

    shape affine: theta row by row. similarity: a, b, x, y of [[a, -b, x], [b, a, y]]. With a limit l every number p
    becomes s + l tanh((p - s) / l), s its start: free near the identity, never further than l.
    """
    if config.limit:
        start = start_of(config, numbers)
        numbers = start + config.limit * ((numbers - start) / config.limit).tanh()
    if config.shape == "similarity":
        a, b, x, y = numbers.unbind(1)
        numbers = torch.stack((a, -b, x, b, a, y), dim=1)
    return numbers.view(-1, 2, 3)


def start_of(config: TransformerConfig, like: Tensor | None = None) -> Tensor:
    """(6 or 4,) numbers of the identity."""
    numbers = (1.0, 0.0, 0.0, 0.0) if config.shape == "similarity" else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    start = torch.tensor(numbers)
    return start if like is None else start.to(like)


def sample(images: Tensor, theta: Tensor, padding: str) -> Tensor:
    """Bilinear samples of (B, C, H, W) where theta puts the pixels of a picture of the same size; corners not aligned."""
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


class SpatialTransformer(nn.Module):
    """A small net, the localisation, looks at the image or at the guide and says where to look.

    conv 7x7 to 8, max-pooling, ReLU, conv 5x5 to 10, max-pooling, ReLU, linear to 32, ReLU, linear to theta. The last layer
    starts with zero weights and the identity as bias. 23,120 parameters for a grey picture of 48 px; names of parameters are
    the published ones. The guide enters through theta alone: six numbers a face. With `masked` the backbone sees the
    image times the guide (0 black, 1 as it is).

    Args:
        config: kind image, guide or masked.
        channels: of the picture that is placed.
        size: its side in pixels.
        black: (channels,) value of a black pixel, for `masked`.

    """

    black: Tensor

    def __init__(self, config: TransformerConfig, channels: int, size: int, black: Tensor) -> None:
        super().__init__()
        if size < SMALLEST:
            raise UsageError(f"transformer.kind {config.kind} needs a model.size of at least {SMALLEST}, not {size}.")
        self.config, self.channels = config, channels
        seen = channels if config.kind == "image" else 1
        self.localization = nn.Sequential(
            nn.Conv2d(seen, 8, 7), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU()
        )
        side = ((size - 6) // 2 - 4) // 2
        start = start_of(config)
        last = nn.Linear(32, len(start))
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(start)
        self.fc_loc = nn.Sequential(nn.Linear(10 * side * side, 32), nn.ReLU(), last)
        self.register_buffer("black", black.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images (B, >= channels, H, W), guide (B, 1, H, W) in [0, 1] or None -> placed (B, channels, H, W), theta."""
        images = picture_of(images, self.channels)
        if self.config.kind == "image":
            seen = images
        else:
            guide = checked(guide, images, self.config.kind)
            seen = 2 * guide - 1
            if self.config.kind == "masked":
                images = self.black + guide * (images - self.black)
        with torch.autocast(images.device.type, enabled=False):
            theta = theta_of(self.fc_loc(self.localization(seen).flatten(1)), self.config)
            return sample(images, theta, self.config.padding), theta

    def blank(self, images: Tensor) -> Tensor | None:
        """A white guide, where one is wanted."""
        return None if self.config.kind == "image" else torch.ones_like(images[:, :1])


class GuideChannel(nn.Module):
    """Control: the guide, from -1 to 1, is one more channel of the picture, and nothing is moved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor, guide: Tensor | None) -> tuple[Tensor, None]:
        """Images (B, >= channels, H, W), guide (B, 1, H, W) -> (B, channels + 1, H, W), no theta."""
        images = picture_of(images, self.channels)
        return torch.cat((images, 2 * checked(guide, images, "channel") - 1), dim=1), None

    def blank(self, images: Tensor) -> Tensor:
        """A white guide."""
        return torch.ones_like(images[:, :1])


class Alignment(nn.Module):
    """Control: theta in closed form, the similarity that lays the mean shape onto the landmarks of the face.

    Args:
        config: kind landmarks.
        channels: of the picture that is placed.

    """

    mean_shape: Tensor
    """(68, 2) places from -1 to 1, NaN unknown; `mien train` takes the mean over the training faces."""
    stable: Tensor
    """(68,) bool, STABLE."""

    def __init__(self, config: TransformerConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.register_buffer("mean_shape", torch.full((LANDMARKS, 2), float("nan")))
        stable = torch.zeros(LANDMARKS, dtype=torch.bool)
        stable[list(STABLE)] = True
        self.register_buffer("stable", stable, persistent=False)

    def forward(self, images: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images (B, >= channels, H, W), landmarks (B, 68, 2) xy pixels, NaN unknown -> placed picture, theta."""
        images = picture_of(images, self.channels)
        if guide is None or tuple(guide.shape) != (len(images), LANDMARKS, 2):
            given = "none" if guide is None else f"{tuple(guide.shape)}"
            raise UsageError(
                f"transformer.kind landmarks needs landmarks ({len(images)}, 68, 2) as guide, got {given}."
            )
        points = to_unit(guide.to(images.dtype), (images.shape[-2], images.shape[-1]))
        shape = self.mean_shape.to(images.dtype)
        if self.config.points == "stable":
            shape = torch.where(self.stable[:, None], shape, torch.nan)
        theta = similarity_theta(shape, points, self.config.moves)
        return sample(images, theta, self.config.padding), theta

    def blank(self, images: Tensor) -> Tensor:
        """Unknown landmarks."""
        return images.new_full((len(images), LANDMARKS, 2), float("nan"))


def picture_of(images: Tensor, channels: int) -> Tensor:
    """The first channels, in float32 or better: half precision would move pixels."""
    return images[:, :channels].to(torch.promote_types(images.dtype, torch.float32))


def to_unit(points: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 2) xy pixels of an image of `size` (H, W), centres at .0 -> from -1 to 1 between its outer edges."""
    return (2 * points + 1) / numbers((size[1], size[0]), points) - 1


def similarity_theta(shape: Tensor, points: Tensor, moves: Sequence[str] = ("turn", "scale", "shift")) -> Tensor:
    """Turn, scale and shift that lay `shape` onto the points with the least squared distance (Umeyama 1991), (B, 2, 3).

    shape (L, 2), points (B, L, 2), both from -1 to 1, NaN unknown. With centred s and t over the points that are known in
    both: c = sum <s, t> / sum |s|^2, d = sum (s_x t_y - s_y t_x) / sum |s|^2, theta = [[c, -d, x], [d, c, y]]. The identity
    where fewer than two places are known, or all coincide. `moves` names the parts that are kept: without turn the angle is
    0, without scale the size 1, without shift the middle of the picture stays where it is.
    """
    known = (points.isfinite().all(2) & shape.isfinite().all(1))[..., None]
    count = known.sum(1, keepdim=True).clamp_min(1)
    s, t = (torch.where(known, places, 0) for places in (shape.expand_as(points), points))
    s_mean, t_mean = (places.sum(1, keepdim=True) / count for places in (s, t))
    s, t = (torch.where(known, places - mean, 0) for places, mean in ((s, s_mean), (t, t_mean)))
    power = s.square().sum((1, 2))
    scale = torch.where(power > 0, power, 1)
    c = (s * t).sum((1, 2)) / scale
    d = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(1) / scale
    usable = (power > 0) & (c.square() + d.square() > 1e-12)
    size = torch.where(usable, c.square() + d.square(), 1).sqrt()
    if "turn" not in moves:
        c, d = size, torch.zeros_like(d)
    if "scale" not in moves:
        c, d = c / size, d / size
    turn = torch.stack((c, -d, d, c), dim=1).view(-1, 2, 2)
    shift = t_mean.transpose(1, 2) - turn @ s_mean.transpose(1, 2)
    if "shift" not in moves:
        shift = torch.zeros_like(shift)
    return torch.where(usable[:, None, None], torch.cat((turn, shift), dim=2), identity_theta(len(points), points))


def checked(guide: Tensor | None, images: Tensor, kind: str) -> Tensor:
    """The guide in the images' type; UsageError unless it is (B, 1, H, W) of the same size."""
    wanted = (len(images), 1, *images.shape[-2:])
    if guide is None or tuple(guide.shape) != wanted:
        given = "none" if guide is None else f"{tuple(guide.shape)}"
        raise UsageError(f"transformer.kind {kind} needs a guide {wanted} beside the images, got {given}.")
    return guide.to(images.dtype)


def create_transformer(
    config: TransformerConfig, channels: int, size: int, preprocessing: str
) -> SpatialTransformer | GuideChannel | Alignment | None:
    """The module of `transformer.kind`; None for `none`."""
    if config.kind == "none":
        return None
    if config.kind == "channel":
        return GuideChannel(channels)
    if config.kind == "landmarks":
        return Alignment(config, channels)
    steps = PREPROCESSING[preprocessing]
    black = -torch.tensor(steps.mean) / torch.tensor(steps.std)
    return SpatialTransformer(config, channels, size, black[:channels])
