"""Masks of facial regions from 68 landmarks: filled convex hulls and the jaw line (Luna-Jimenez et al. 2021).

Published (doi 10.3390/app11167217) they are drawn on each picture with OpenCV and resized to 48x48. Here the same figures
are integrated over the cells of a map of any size: exactly along x, in strips along y, for a whole batch at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mien.cues.config import LANDMARK_GROUPS, CueConfig
from mien.maps import numbers

HULLS = (("brows", 17, 22), ("brows", 22, 27), ("nose", 27, 36), ("eyes", 36, 42), ("eyes", 42, 48), ("mouth", 48, 68))
"""Group, first and last + 1 point of every region that is filled; the published inner mouth lies inside the mouth."""
JAW = (0, 17)
PUBLISHED_SIDE = 48
"""Side of the published guide images, in whose pixels their line widths are given."""
JAW_PIXELS = 3
"""Width of the jaw line in pixels of a picture of 48, which OpenCV draws for a published thickness of 2. So many pixels of any
picture with `jaw: published`: drawn on the original picture, the line fades the larger that is."""
SOFT_THRESHOLD = 38 / 255
"""Published: int(0.15 * 255) of 255."""
SOFT_BACKGROUND = 0.5
"""Published: 127 of 255, which is -0.004 instead of 0 after (x - 0.5) / 0.5."""
RIM = 0.4
"""Pixels. OpenCV also fills the pixels that a hull touches: as a square of this half-side adds
"""
STRIPS = 192
"""At least this many strips along y, and two a cell."""
FAR = 1e6
"""Pixels. Coordinates beyond are clamped, so that one absurd face cannot overflow."""

Size = tuple[int, int]


def draw_masks(config: CueConfig, landmarks: Tensor, image_size: Size, size: Size) -> tuple[Tensor, Tensor]:
    """Masks (B, 1, h, w) in [0, 1] of the kinds landmark_mask, landmark_soft and landmark_dilation, and validity (B,).

    A region is the convex hull of its points and the rim that OpenCV fills around it. `landmark_dilation` widens it by
    another 1/48 of the side. Published is two dilations of 48 px masks by a 2x2 kernel, which also move them by 1/48 to
    the right and down (`dilation: published`). `landmark_soft` is 1 where the mask reaches 38/255, else 0.5. Invalid where
    a point that is drawn is unknown, or nothing falls on the canvas.
    """
    finite = landmarks.isfinite().all(-1)
    points = landmarks.nan_to_num(0.0, FAR, -FAR).clamp(-FAR, FAR)
    unit = min(image_size) / PUBLISHED_SIDE
    wider = unit if config.kind == "landmark_dilation" else 0.0
    if config.kind == "landmark_dilation" and config.dilation == "published":
        points = points + unit
    strips = max(2, -(-STRIPS // size[0]))
    rows = size[0] * strips
    heights = (torch.arange(rows, device=points.device) + 0.5) * (image_size[0] / rows) - 0.5
    factors = _factors(config)
    mask = points.new_zeros(len(points), rows, size[1])
    for factor in {factor for factor in factors.values() if factor}:
        drawn = {group for group in factors if factors[group] == factor}
        left, right = _figures(
            points, drawn, heights, wider, JAW_PIXELS * (1.0 if config.jaw == "published" else unit) / 2
        )
        mask = torch.maximum(mask, factor * covered(left, right, image_size[1], size[1]))
    maps = mask.view(len(mask), size[0], strips, size[1]).mean(2)[:, None]
    used = [k for name, (first, end) in LANDMARK_GROUPS.items() if factors[name] for k in range(first, end)]
    valid = finite[:, used].all(1) & (maps.flatten(1).amax(1) > 0)
    return (soften(maps) if config.kind == "landmark_soft" else maps), valid


def soften(mask: Tensor) -> Tensor:
    """Two levels: 1 where the mask is at least 38/255, else 0.5."""
    return torch.where(mask >= SOFT_THRESHOLD, 1.0, SOFT_BACKGROUND)


def _factors(config: CueConfig) -> dict[str, float]:
    """Factor of each group of points, the largest 1, 0 for a jaw that is not drawn."""
    factors = {name: config.groups.get(name, 1.0) for name in LANDMARK_GROUPS}
    if not config.draws_jaw:
        factors["jaw"] = 0.0
    largest = max(factors.values())
    return {name: value / largest for name, value in factors.items()}


def _figures(points: Tensor, drawn: set[str], heights: Tensor, wider: float, radius: float) -> tuple[Tensor, Tensor]:
    """Chords of all convex figures of the groups, (B, K, R) each: a figure a hull, and one a segment of the jaw line."""
    ends = [
        chords(*hull_edges(points[:, first:end]), heights, RIM + wider) for group, first, end in HULLS if group in drawn
    ]
    if "jaw" in drawn:
        corners = _strokes(points[:, slice(*JAW)], radius)
        ends += [chords(corners[:, k], corners[:, k].roll(1, 1), heights, wider) for k in range(corners.shape[1])]
    return torch.stack([left for left, _ in ends], 1), torch.stack([right for _, right in ends], 1)


def hull_edges(points: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of the edges of the convex hulls of point sets: (B, P, 2) -> two (B, P, 2).

    From each point an edge leads to the farthest point that has no other to the right of the way there. A point inside
    the hull has none; the segment that is given for it lies inside as well and changes nothing.
    """
    way = points[:, None] - points[:, :, None]  # (B, from, to, 2)
    length = way.norm(dim=-1)
    side = way[..., None, 0] * way[:, :, None, :, 1] - way[..., None, 1] * way[:, :, None, :, 0]
    outer = (side >= -1e-3 * length[..., None]).all(-1)  # a thousandth of a pixel
    farthest = torch.where(outer, length, -1.0).argmax(-1)
    return points, points.gather(1, farthest[..., None].expand(-1, -1, 2))


def chords(a: Tensor, b: Tensor, heights: Tensor, grow: float) -> tuple[Tensor, Tensor]:
    """Left and right end of a convex figure at each height, (B, R) each; left > right where it is not met.

    a, b (B, E, 2) are the ends of segments whose convex hull is the figure (at least all its edges), heights (R,). `grow`
    widens the figure by a square of that half-side: at each height the segments are met anywhere within `grow` of it.
    """
    low, high = (
        torch.where(a[..., 1:] <= b[..., 1:], a, b)[..., None],
        torch.where(a[..., 1:] <= b[..., 1:], b, a)[..., None],
    )
    rise = high[:, :, 1] - low[:, :, 1]
    met = (low[:, :, 1] <= heights + grow) & (high[:, :, 1] >= heights - grow)
    ends = []
    for height in (heights - grow, heights + grow):
        share = ((height - low[:, :, 1]) / torch.where(rise > 0, rise, 1.0)).clamp(0, 1)
        ends.append(low[:, :, 0] + share * (high[:, :, 0] - low[:, :, 0]))
    left = torch.where(met, torch.minimum(*ends), 2 * FAR).amin(1) - grow
    return left, torch.where(met, torch.maximum(*ends), -2 * FAR).amax(1) + grow


def _strokes(points: Tensor, radius: float) -> Tensor:
    """Corners (B, L - 1, 4, 2) of the segments of an open line (B, L, 2), drawn `2 radius` wide and a little too long."""
    a, b = points[:, :-1], points[:, 1:]
    along = torch.nn.functional.normalize(b - a, dim=-1) * radius
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    a, b = a - along / 2, b + along / 2
    return torch.stack([a + across, b + across, b - across, a - across], 2)


def covered(left: Tensor, right: Tensor, length: int, cells: int) -> Tensor:
    """Share of each of `cells` equal cells of [-0.5, length - 0.5] under the union of intervals, (B, K, R) -> (B, R, cells).

    In the order of their left ends, an interval counts from where those before it end. A border at p then opens or closes
    1 from its cell on, less the part of that cell before p; sums from the left are the shares.
    """
    left, order = left.sort(1)
    reach = right.gather(1, order).cummax(1).values
    left = torch.maximum(left, torch.cat([left[:, :1], reach[:, :-1]], 1))
    borders = torch.stack([left, torch.maximum(left, reach)], 1).add(0.5).mul(cells / length).clamp(0, cells)
    cell = borders.floor()
    after = borders - cell
    sign = numbers((1.0, -1.0), borders).view(1, 2, 1, 1)
    steps = torch.stack([sign * (1 - after), sign * after], 1).flatten(1, 3).transpose(1, 2)
    index = torch.stack([cell, cell + 1], 1).long().flatten(1, 3).transpose(1, 2)
    opened = left.new_zeros(len(left), left.shape[2], cells + 2).scatter_add_(2, index, steps)
    return opened[..., :cells].cumsum(2).clamp(0, 1)
