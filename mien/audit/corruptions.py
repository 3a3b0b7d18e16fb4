"""Fifteen things that happen to pictures of faces, each at five strengths, for a whole batch on its device.

Hendrycks and Dietterich 2019 (arXiv 1903.12261) is the model; weather and glass are left out, what hides parts of a face is
added. A corruption is a pure function: what is random comes in as numbers, so a face is changed alike in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.compat import ensure_torchvision
from mien.cues.masks import chords, hull_edges
from mien.errors import UsageError, unknown_name
from mien.schema import IntArray

ensure_torchvision()
from torchvision.transforms.v2 import functional as VF  # noqa: E402

STRENGTHS = 5
NUMBERS = 4
"""Random numbers in [0, 1] of a face; each corruption takes those that it needs."""
SKIN = (0.78, 0.60, 0.50)
CLOTHS = ((0.75, 0.85, 0.9), (0.92, 0.92, 0.92), (0.12, 0.12, 0.13))


class Faces(NamedTuple):
    """What a corruption takes."""

    images: Tensor
    """(B, 3, H, W) in [0, 1]."""
    landmarks: Tensor
    """(B, 68, 2) pixels, NaN unknown."""
    numbers: Tensor
    """(B, NUMBERS) in [0, 1]."""
    seeds: tuple[int, ...]
    """Of the pixel noise of each face."""


def faces_of(images: Tensor, landmarks: Tensor, rows: IntArray, seed: int = 0) -> Faces:
    """Faces with random numbers that depend on (seed, row) only; images (B, 3, H, W) in [0, 1]."""
    draws = np.stack([np.random.default_rng([seed, int(row)]).random(NUMBERS + 1) for row in rows])
    numbers = torch.from_numpy(draws[:, :NUMBERS]).to(images)
    return Faces(images, landmarks.to(images), numbers, tuple(int(2**31 * one) for one in draws[:, NUMBERS]))


def noise(faces: Faces, strength: int) -> Tensor:
    """Gaussian noise of each pixel and colour, standard deviation 0.04 to 0.26."""
    return (faces.images + (0.04, 0.08, 0.12, 0.18, 0.26)[strength - 1] * _grain(faces)).clamp(0, 1)


def blur(faces: Faces, strength: int) -> Tensor:
    """Gaussian blur, standard deviation 1 to 6 % of the side."""
    sigma = (0.01, 0.02, 0.03, 0.045, 0.06)[strength - 1] * faces.images.shape[-1]
    size = min(2 * int(np.ceil(3 * sigma)) + 1, 2 * (faces.images.shape[-1] // 2) - 1)
    return VF.gaussian_blur(faces.images, [size, size], [sigma, sigma])


def motion(faces: Faces, strength: int) -> Tensor:
    """Mean along a straight path of 4 to 24 % of the side, at a random angle."""
    side = faces.images.shape[-1]
    length = (0.04, 0.08, 0.12, 0.18, 0.24)[strength - 1] * side
    angle = faces.numbers[:, 0] * torch.pi
    steps = torch.linspace(-0.5, 0.5, max(3, 2 * int(length) + 1), device=angle.device) * length
    radius = int(np.ceil(length / 2)) + 1
    places = torch.arange(-radius, radius + 1, device=angle.device)
    rows, columns = (
        (1 - (places[None, None] - (steps * part[:, None])[..., None]).abs()).clamp_min(0)
        for part in (angle.sin(), angle.cos())
    )
    kernels = torch.einsum("bsy,bsx->byx", rows, columns)  # the path in bilinear steps
    kernels = (kernels / kernels.sum((1, 2), keepdim=True)).repeat_interleave(3, 0)[:, None]
    padded = F.pad(faces.images, (radius,) * 4, "replicate").reshape(1, -1, *(side + 2 * radius,) * 2)
    return F.conv2d(padded, kernels.to(padded), groups=len(kernels)).view_as(faces.images)


def jpeg(faces: Faces, strength: int) -> Tensor:
    """JPEG of quality 50 to 4, as a coder makes it; on the CPU."""
    quality = (50, 30, 18, 10, 4)[strength - 1]
    pixels = (faces.images * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).flip(3).numpy()
    coded = [cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for one in pixels]
    again = np.stack([np.asarray(cv2.imdecode(one, cv2.IMREAD_COLOR)) for one in coded])[..., ::-1].copy()
    return torch.from_numpy(again).permute(0, 3, 1, 2).to(faces.images.device).float() / 255


def low_resolution(faces: Faces, strength: int) -> Tensor:
    """Shrunk to 50 to 12 % of the side and enlarged again."""
    side = faces.images.shape[-1]
    small = max(4, round((0.5, 0.35, 0.25, 0.18, 0.12)[strength - 1] * side))
    shrunk = F.interpolate(faces.images, size=(small, small), mode="bilinear", antialias=True)
    return F.interpolate(shrunk, size=(side, side), mode="bilinear").clamp(0, 1)


def dark(faces: Faces, strength: int) -> Tensor:
    """60 to 14 % of the light, with the noise of a sensor that lacks it."""
    gain = (0.6, 0.45, 0.32, 0.22, 0.14)[strength - 1]
    return (faces.images * gain + 0.02 * (1 - gain) * _grain(faces)).clamp(0, 1)


def bright(faces: Faces, strength: int) -> Tensor:
    """1.3 to 3.2 times the light, cut off at white."""
    return (faces.images * (1.3, 1.6, 2.0, 2.5, 3.2)[strength - 1]).clamp(0, 1)


def contrast(faces: Faces, strength: int) -> Tensor:
    """70 to 15 % of the contrast, about each picture's mean."""
    return VF.adjust_contrast(faces.images, (0.7, 0.5, 0.35, 0.25, 0.15)[strength - 1])


def shadow(faces: Faces, strength: int) -> Tensor:
    """One side of the picture, at a random angle, loses 35 to 88 % of its light behind a soft edge."""
    depth = (0.35, 0.5, 0.65, 0.78, 0.88)[strength - 1]
    x, y = _grid(faces.images)
    angle, offset = faces.numbers[:, 0] * 2 * torch.pi, (faces.numbers[:, 1] - 0.5) * 0.3
    side = x * angle.cos().view(-1, 1, 1) + y * angle.sin().view(-1, 1, 1) - offset.view(-1, 1, 1)
    return faces.images * (1 - depth * torch.sigmoid(side / 0.06))[:, None]


def colour_cast(faces: Faces, strength: int) -> Tensor:
    """The light of a lamp: red and blue gain or lose 12 to 70 %, to one side or the other."""
    amount = (0.12, 0.24, 0.38, 0.54, 0.7)[strength - 1]
    sign = torch.where(faces.numbers[:, 0] < 0.5, -1.0, 1.0)
    gains = torch.stack((1 + amount * sign, torch.ones_like(sign), 1 - amount * sign), 1)
    return (faces.images * gains[:, :, None, None]).clamp(0, 1)


def turned(faces: Faces, strength: int) -> Tensor:
    """Turned in the plane by 8 to 45 degrees, to either side."""
    return moved(faces.images, turn_of(faces, strength))


def recropped(faces: Faces, strength: int) -> Tensor:
    """Cut elsewhere: shifted by 4 to 20 % of the side in a random direction, 4 to 24 % larger or smaller."""
    return moved(faces.images, crop_of(faces, strength))


def mask(faces: Faces, strength: int) -> Tensor:
    """A cloth over the lower face: the chin (1), up to the mouth (2), the nose (3, 4) and its bridge (5)."""
    first, top = ((5, 57), (4, 51), (4, 33), (3, 30), (2, 28))[strength - 1]
    corners = [57, 57] if strength == 1 else [48, 54]
    cloth = torch.cat((faces.landmarks[:, first : 17 - first], faces.landmarks[:, [top, *corners]]), 1)
    colour = faces.images.new_tensor(CLOTHS)[(faces.numbers[:, 0] * len(CLOTHS)).long().clamp_max(len(CLOTHS) - 1)]
    return _covered(faces.images, _hull(cloth, faces.images), colour)


def sunglasses(faces: Faces, strength: int) -> Tensor:
    """Dark lenses and a bridge before the eyes: 50 to 98 % dense, growing over brows and cheeks."""
    density, size = ((0.5, 0.42), (0.7, 0.46), (0.85, 0.5), (0.94, 0.56), (0.98, 0.62))[strength - 1]
    eyes = torch.stack((faces.landmarks[:, 36:42].mean(1), faces.landmarks[:, 42:48].mean(1)), 1)
    across = eyes[:, 1] - eyes[:, 0]
    unit = across.norm(dim=1).clamp_min(1e-3)
    layer = _segment(faces.images, eyes[:, 0], eyes[:, 1], 0.05 * unit)
    along, up = across / unit[:, None], torch.stack((-across[:, 1], across[:, 0]), 1) / unit[:, None]
    x, y = _pixels(faces.images)
    for eye in (eyes[:, 0], eyes[:, 1]):
        dx, dy = x - eye[:, 0].view(-1, 1, 1), y - eye[:, 1].view(-1, 1, 1)
        u = (dx * along[:, 0].view(-1, 1, 1) + dy * along[:, 1].view(-1, 1, 1)) / (size * unit).view(-1, 1, 1)
        v = (dx * up[:, 0].view(-1, 1, 1) + dy * up[:, 1].view(-1, 1, 1)) / (0.75 * size * unit).view(-1, 1, 1)
        inside = (1 - (u.abs() ** 3 + v.abs() ** 3)) * (size * unit).view(-1, 1, 1) / 3
        layer = torch.maximum(layer, (inside + 0.5).clamp(0, 1))
    return _covered(faces.images, density * layer, faces.images.new_full((len(unit), 3), 0.05))


def hand(faces: Faces, strength: int) -> Tensor:
    """A palm and four fingers from the border over a cheek, the mouth or the chin, growing with the strength."""
    size = (0.5, 0.7, 0.9, 1.15, 1.4)[strength - 1]
    points, n = faces.landmarks, len(faces.landmarks)
    goals = points[:, (4, 12, 48, 54, 57, 8)]
    goal = goals[torch.arange(n), (faces.numbers[:, 0] * goals.shape[1]).long().clamp_max(goals.shape[1] - 1)]
    unit = (points[:, 45] - points[:, 36]).norm(dim=1).clamp_min(1e-3)
    outward = goal - points[:, 27]
    outward = outward / outward.norm(dim=1, keepdim=True).clamp_min(1e-3)
    turn = (faces.numbers[:, 1] - 0.5) * 1.2
    outward = torch.stack(
        (
            outward[:, 0] * turn.cos() - outward[:, 1] * turn.sin(),
            outward[:, 0] * turn.sin() + outward[:, 1] * turn.cos(),
        ),
        1,
    )
    aside = torch.stack((-outward[:, 1], outward[:, 0]), 1)
    palm = goal + outward * (0.12 * unit)[:, None]
    layer = _segment(faces.images, palm, palm + outward * (4 * unit)[:, None], 0.28 * size * unit)
    for finger in (-0.75, -0.25, 0.25, 0.75):
        start = palm + aside * (finger * 0.33 * size * unit)[:, None]
        stop = start - outward * ((0.55 - 0.2 * abs(finger)) * size * unit)[:, None]
        layer = torch.maximum(layer, _segment(faces.images, start, stop, 0.085 * size * unit))
    colour = faces.images.new_tensor(SKIN)[None] * (0.35 + 0.65 * faces.numbers[:, 2:3])
    return _covered(faces.images, layer, colour)


Change = Callable[[Faces, int], Tensor]
CORRUPTIONS: dict[str, Change] = {
    "noise": noise, "blur": blur, "motion": motion, "jpeg": jpeg, "low resolution": low_resolution, "dark": dark,
    "bright": bright, "contrast": contrast, "shadow": shadow, "colour cast": colour_cast, "turn": turned,
    "crop": recropped, "mask": mask, "sunglasses": sunglasses, "hand": hand,
}  # fmt: skip
"""Name -> function of faces and strength (1 to 5)."""
NEED_LANDMARKS = ("mask", "sunglasses", "hand")
MOVE = ("turn", "crop")
"""After these a map is held against the moved map of the clean face."""


def corrupt(name: str, faces: Faces, strength: int) -> Tensor:
    """Changed images (B, 3, H, W) in [0, 1]; UsageError for an unknown name or strength.

    Landmarks of those in NEED_LANDMARKS must be known: a face without comes back as it was.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if not 1 <= strength <= STRENGTHS:
        raise UsageError(f"strength is {strength}; give 1 to {STRENGTHS}.")
    if name not in NEED_LANDMARKS:
        return CORRUPTIONS[name](faces, strength)
    known = faces.landmarks.isfinite().flatten(1).all(1)
    plain = faces._replace(landmarks=faces.landmarks.nan_to_num(0.0))
    return torch.where(known.view(-1, 1, 1, 1), CORRUPTIONS[name](plain, strength), faces.images)


def move_of(name: str, faces: Faces, strength: int) -> Tensor | None:
    """(B, 2, 3) that `moved` takes, for corruptions in MOVE; None for the others."""
    return {"turn": turn_of, "crop": crop_of}[name](faces, strength) if name in MOVE else None


def turn_of(faces: Faces, strength: int) -> Tensor:
    """Places of the output -> places of the input, both from -1 to 1, (B, 2, 3)."""
    angle = torch.deg2rad(faces.images.new_tensor((8.0, 15, 24, 34, 45)[strength - 1]))
    angle = angle * torch.where(faces.numbers[:, 0] < 0.5, -1.0, 1.0)
    return affine(angle.cos(), angle.sin(), torch.zeros_like(angle), torch.zeros_like(angle))


def crop_of(faces: Faces, strength: int) -> Tensor:
    """As `turn_of`."""
    away, wider = ((0.04, 0.04), (0.08, 0.08), (0.12, 0.12), (0.16, 0.18), (0.2, 0.24))[strength - 1]
    angle = faces.numbers[:, 0] * 2 * torch.pi
    scale = torch.where(faces.numbers[:, 1] < 0.5, 1 - wider, 1 + wider)
    return affine(scale, torch.zeros_like(scale), 2 * away * angle.cos(), 2 * away * angle.sin())


def affine(cosine: Tensor, sine: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, 2, 3) of a turn with scale and a shift, each (B,)."""
    return torch.stack((torch.stack((cosine, -sine, x), 1), torch.stack((sine, cosine, y), 1)), 1)


def moved(images: Tensor, theta: Tensor, fill: str = "border") -> Tensor:
    """Images or maps (B, C, H, W) resampled at theta (B, 2, 3), bilinear; beyond the border its last pixel, or zeros."""
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=fill, align_corners=False)


def _grain(faces: Faces) -> Tensor:
    shape = faces.images.shape[1:]
    each = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in faces.seeds]
    return torch.stack(each).to(faces.images)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """X and y of every pixel from -0.5 to 0.5, (1, H, W) each."""
    sides = [(torch.arange(n, device=images.device) + 0.5) / n - 0.5 for n in images.shape[-2:]]
    y, x = torch.meshgrid(*sides, indexing="ij")
    return x[None], y[None]


def _pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """X and y of every pixel centre in pixels, (1, H, W) each."""
    y, x = torch.meshgrid(*(torch.arange(n, device=images.device).float() for n in images.shape[-2:]), indexing="ij")
    return x[None], y[None]


def _segment(images: Tensor, start: Tensor, stop: Tensor, radius: Tensor) -> Tensor:
    """(B, H, W) in [0, 1]: within `radius` (B,) pixels of the line from start to stop (B, 2), smooth over a pixel."""
    x, y = _pixels(images)
    way = stop - start
    dx, dy = x - start[:, 0].view(-1, 1, 1), y - start[:, 1].view(-1, 1, 1)
    wx, wy = way[:, 0].view(-1, 1, 1), way[:, 1].view(-1, 1, 1)
    place = ((dx * wx + dy * wy) / (wx * wx + wy * wy).clamp_min(1e-6)).clamp(0, 1)
    away = ((dx - place * wx) ** 2 + (dy - place * wy) ** 2).sqrt()
    return (radius.view(-1, 1, 1) - away + 0.5).clamp(0, 1)


def _hull(points: Tensor, images: Tensor) -> Tensor:
    """(B, H, W) in [0, 1]: the convex hull of points (B, P, 2) in pixels."""
    heights = torch.arange(images.shape[-2], device=images.device).float()
    left, right = chords(*hull_edges(points), heights, 0.0)
    x = torch.arange(images.shape[-1], device=images.device).float()
    return torch.minimum(x - left[..., None], right[..., None] - x).add(0.5).nan_to_num(0.0).clamp(0, 1)


def _covered(images: Tensor, layer: Tensor, colour: Tensor) -> Tensor:
    """A colour (B, 3) over the images where layer (B, H, W) says, a little darker towards its rim."""
    shade = 0.75 + 0.25 * F.avg_pool2d(layer[:, None], 5, 1, 2)
    return images + layer[:, None] * (colour[:, :, None, None] * shade - images)
