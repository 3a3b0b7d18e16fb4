"""Action-unit ellipses from 68 landmarks, for a whole batch on its device.

Two drawings. "face": sizes follow the face, axes follow the eye line, and a map cell holds the share of its area that
is covered, so that a map at 7x7 is the area average of one at 224x224. "canvas": the published drawing, evaluated only
at the pixels that its 28x28 resize reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mien.cues.codebook import Choice, Geometry
from mien.maps import min_max

LEFT_EYE, RIGHT_EYE = 36, 45
"""Outer eye corners."""
STRIPS, COLUMNS = 56, 28
"""Smaller maps are drawn on at least this many rows and columns and averaged, so that overlaps are counted once."""
CACHE = 2**17
"""Cells drawn at once on a CPU: what its cache holds."""
CHUNK, GROUP = 256, 12
"""Samples of small maps drawn at once on a CPU, and how many of each class make it worth its own calls."""
NEAR_ONE = 1 - 1e-6
"""Keeps the slope of the arc sine finite at the tips of an ellipse."""
PAPER_GRID = 28
PAPER_BACKGROUND = 1e-4
Groups = list[tuple[int, int]]
"""Runs of samples: how many, and how many of their first ellipses are drawn."""


class Ellipses(NamedTuple):
    """Ellipses in image pixels, given by their horizontal chords. All (B, E).

    At height y the chord is cx + skew (y - cy) +- half_x sqrt(1 - t^2), with t = (y - cy) / half_y.
    """

    cx: Tensor
    cy: Tensor
    half_x: Tensor
    """Half length of the chord through the centre."""
    half_y: Tensor
    """Half height of the bounding box."""
    skew: Tensor
    """Shift of the chord's middle in x per pixel in y; 0 for a level ellipse."""


def eye_distance(landmarks: Tensor) -> Tensor:
    """Distance of the outer eye corners (points 36 and 45) in pixels, (B, 68, 2) -> (B,)."""
    return (landmarks[:, RIGHT_EYE] - landmarks[:, LEFT_EYE]).norm(dim=-1)


def face_ellipses(landmarks: Tensor, book: Geometry) -> Ellipses:
    """Ellipses of a "face" codebook for finite landmarks (B, 68, 2), in pixels, turned with the eye line.

    The landmarks are put into the head frame (origin between the outer eye corners, x along them, unit their distance);
    there one matrix product gives every centre and semi-axis. Differentiable where the eye corners differ.
    """
    left, right = landmarks[:, LEFT_EYE], landmarks[:, RIGHT_EYE]
    distance = (right - left).norm(dim=-1).clamp_min(1e-6)
    cos, sin = ((right - left) / distance[:, None])[:, :, None].unbind(1)
    origin = (left + right) / 2
    moved = (landmarks - origin[:, None]) / distance[:, None, None]
    head_x = moved[..., 0] * cos + moved[..., 1] * sin
    head_y = moved[..., 1] * cos - moved[..., 0] * sin
    count = len(book.offset)
    x = head_x @ book.weights_x.T.to(head_x.dtype)
    y = head_y @ book.weights_y.T.to(head_y.dtype)
    cx, cy = x[:, :count] + book.offset[:, 0], y[:, :count] + book.offset[:, 1]
    scale = distance[:, None]
    a = scale * torch.maximum(x[:, count:] + book.plus[:, 0], book.least[:, 0]).clamp_min(1e-4)
    b = scale * torch.maximum(y[:, count:] + book.plus[:, 1], book.least[:, 1]).clamp_min(1e-4)
    half_y = (a.square() * sin.square() + b.square() * cos.square()).sqrt()
    return Ellipses(
        origin[:, :1] + scale * (cx * cos - cy * sin),
        origin[:, 1:] + scale * (cx * sin + cy * cos),
        a * b / half_y,
        half_y,
        (a.square() - b.square()) * sin * cos / half_y.square(),
    )


def coverage(
    ellipses: Ellipses, image_size: tuple[int, int], size: tuple[int, int], groups: Groups | None = None
) -> Tensor:
    """Share of each cell of an (h, w) grid that the union of the ellipses covers, (B, 1, h, w) in [0, 1].

    Pixel centres lie at whole numbers, so the canvas reaches from -0.5 to W - 0.5. Each row strip of the grid gets the
    mean chord over its height in closed form, so that areas are exact; the chord is then cut by the cells. The union of
    overlapping ellipses is taken on a grid of at least 56x28, then averaged. `groups` (on a CPU, without gradients) are
    runs of samples whose ellipses lie at about the same places.
    """
    (height, width), (h, w) = image_size, size
    down, across = -(-STRIPS // h), -(-COLUMNS // w)
    rows, columns = h * down, w * across
    count = len(ellipses.cx)
    part = max(1, CACHE // (rows * columns)) if ellipses.cx.device.type == "cpu" and groups is None else count
    if count > part:
        split = zip(*(t.split(part) for t in ellipses), strict=True)
        return torch.cat([coverage(Ellipses(*some), image_size, size) for some in split])
    # samples come last: long contiguous runs, several times faster on a CPU than a last axis of a few cells
    cx, cy, half_x, half_y, skew = (t.T[:, None].contiguous() for t in ellipses)
    borders = (torch.arange(rows + 1, device=cx.device, dtype=cx.dtype) * (height / rows) - 0.5)[:, None]
    edges = (torch.arange(columns + 1, device=cx.device, dtype=cx.dtype) * (width / columns) - 0.5)[:, None, None]
    t = ((borders - cy) / half_y).clamp(-NEAR_ONE, NEAR_ONE)
    integral = torch.addcmul(t.asin(), t, (1 - t * t).sqrt())
    chord = integral.diff(dim=1) * (half_x * half_y * (rows / height / 2))
    # the middle of the chord, taken where the ellipse reaches into the strip
    middle = cx + (skew * half_y / 2) * (t[:, 1:] + t[:, :-1])
    low, high = middle - chord, middle + chord
    best = cx.new_zeros(columns, rows, count)
    if groups is None:
        for start, end in zip(low, high, strict=True):
            best = torch.maximum(best, torch.maximum(torch.minimum(edges, end), start).diff(dim=0))
    else:
        reach = torch.stack((cy - half_y, cy + half_y, low.amin(1, keepdim=True), high.amax(1, keepdim=True)))[:, :, 0]
        # numpy: its calls cost a third of torch's, and these are many and small
        starts, ends, lines, merged = low.numpy(), high.numpy(), edges.numpy(), best.numpy()
        for slot, samples, y, x in _windows(reach, image_size, (rows, columns), groups):
            cut = np.minimum(lines[x.start : x.stop + 1], ends[slot, y, samples])
            np.maximum(cut, starts[slot, y, samples], out=cut)
            window = merged[x, y, samples]
            np.maximum(window, cut[1:] - cut[:-1], out=window)
    # one axis at a time: several times faster than one mean over two axes that lie apart
    wide = best if across == 1 else best.view(w, across, rows, count).mean(1)
    mean = (wide if down == 1 else wide.view(w, h, down, count).mean(2)) * (columns / width)
    return mean.clamp(0, 1).permute(2, 1, 0)[:, None].contiguous()


def _windows(
    reach: Tensor, image_size: tuple[int, int], grid: tuple[int, int], groups: Groups
) -> Iterator[tuple[int, slice, slice, slice]]:
    """(ellipse, samples, rows, columns): the cells that an ellipse reaches in any sample of a group.

    `reach` (4, E, B) is top, bottom, left and right in pixels.
    """
    (height, width), (rows, columns) = image_size, grid
    starts = list(itertools.accumulate((count for count, _ in groups[:-1]), initial=0))
    edge = reach.nan_to_num().numpy() + 0.5
    scale = np.array([rows / height, rows / height, columns / width, columns / width])[:, None, None]
    first = np.floor(np.minimum.reduceat(edge[::2], starts, axis=2) * scale[::2])
    last = np.ceil(np.maximum.reduceat(edge[1::2], starts, axis=2) * scale[1::2])
    limit = np.array([rows, columns])[:, None, None]
    cells = (
        np.concatenate((first, last)).clip(0, np.concatenate((limit, limit))).astype(int).transpose(2, 1, 0).tolist()
    )
    for start, (count, used), windows in zip(starts, groups, cells, strict=True):
        for slot, (y0, x0, y1, x1) in enumerate(windows[:used]):
            if y0 < y1 and x0 < x1:
                yield slot, slice(start, start + count), slice(y0, y1), slice(x0, x1)


def pick(ellipses: Ellipses, numbers: Tensor) -> Ellipses:
    """Ellipses `numbers` (B, S) of each sample, out of (B, E)."""
    return Ellipses(*(t.gather(1, numbers) for t in ellipses))


def known(landmarks: Tensor, book: Geometry) -> tuple[Tensor, Tensor]:
    """Landmarks with unknown points set to 0, and (B, E) bool: every point that the ellipse needs is known."""
    if landmarks.device.type == "cpu" and landmarks.isfinite().all():  # the usual case; elsewhere the device would wait
        return landmarks, torch.ones(len(landmarks), len(book.uses), dtype=torch.bool)
    finite = landmarks.isfinite().all(-1)
    missing = (~finite).to(book.uses.dtype) @ book.uses.T
    return torch.where(finite[..., None], landmarks, 0.0), missing < 0.5


def draw_face(
    landmarks: Tensor, rows: Tensor, book: Geometry, choice: Choice, image_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Maps (B, 1, h, w) and validity (B,) of a "face" codebook; `rows` (B,) are class rows of `choice`."""
    clean, usable = known(landmarks, book)
    numbers = choice.members[rows]
    eyes = landmarks[:, LEFT_EYE].isfinite().all(1) & landmarks[:, RIGHT_EYE].isfinite().all(1)
    valid = choice.drawn[rows] & eyes & usable.gather(1, numbers).all(1) & (eye_distance(clean) >= 1)
    ellipses = face_ellipses(clean, book)
    if landmarks.device.type != "cpu" or ellipses.cx.requires_grad:
        maps = coverage(pick(ellipses, numbers), image_size, size)
    else:
        maps = _class_by_class(ellipses, torch.where(valid, rows, -1), choice.members, image_size, size)
    return maps, valid & (maps.flatten(1).amax(1) > 0)


def _class_by_class(
    ellipses: Ellipses, rows: Tensor, members: Tensor, image_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """`coverage` of the samples with rows >= 0, zero elsewhere; several times faster on a CPU.

    The faces of a class have the same ellipses at about the same places: none is drawn in vain, and a small window of
    the grid holds it. Small groups are not worth their calls; they share one.
    """
    maps = ellipses.cx.new_zeros(len(rows), 1, *size)
    table = torch.stack(ellipses)
    order = rows.argsort(stable=True)[int((rows < 0).sum()) :]
    used = (1 + (members[:, 1:] != members[:, :1]).sum(1)).tolist()
    for chosen in order.split(max(1, CHUNK // max(1, size[0] * size[1] // (STRIPS * COLUMNS)))):
        if not len(chosen):
            break
        present, counts = rows[chosen].unique_consecutive(return_counts=True)
        groups = list(zip(counts.tolist(), (used[row] for row in present.tolist()), strict=True))
        if len(chosen) < GROUP * len(groups):
            groups = [(len(chosen), max(count for _, count in groups))]
        most = max(count for _, count in groups)
        drawn = table[:, chosen, members[rows[chosen], :most].T].transpose(1, 2)
        maps[chosen] = coverage(Ellipses(*drawn), image_size, size, groups)
    return maps


def draw_canvas(
    landmarks: Tensor, rows: Tensor, book: Geometry, choice: Choice, image_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Maps and validity by the published recipe (Belharbi et al. 2024), its integer steps and defects included.

    Landmarks truncated to integers; filled axis-aligned ellipses of value 255 on 1e-4; bilinear resize to 28x28 without
    antialiasing; 3x3 box blur; bilinear resize back; maximum over action units; min-max per image; then, for another
    `size`, bilinear with aligned corners and antialiasing, clamped to the map's own range.
    """
    height, width = image_size
    clean, usable = known(landmarks, book)
    numbers = choice.slots[rows]
    count = len(book.offset)
    whole = clean.trunc()
    x, y = whole[..., 0] @ book.weights_x.T, whole[..., 1] @ book.weights_y.T
    # the small constant keeps a product that should be a whole number from being truncated to the one below
    cx = (x[:, :count] + 1e-3).trunc() + book.offset[:, 0]
    cx = torch.where(book.keep_inside, cx.clamp(0, width), cx)
    cy = (y[:, :count] + 1e-3).trunc() + book.offset[:, 1]
    spans = torch.stack((x[:, count:], y[:, count:]), -1) + book.plus
    axes = spans.trunc()
    axes = torch.where(axes > 0, axes, book.least)
    outside_x = (cx - cx.clamp(0, width - 1)) / axes[..., 0].clamp_min(0.5)
    outside_y = (cy - cy.clamp(0, height - 1)) / axes[..., 1].clamp_min(0.5)
    touches = (outside_x.square() + outside_y.square() <= 1) & usable
    merged = torch.full((len(rows), 1, height, width), PAPER_BACKGROUND, device=cx.device, dtype=cx.dtype)
    for s in range(numbers.shape[1]):
        filled = _sampled(pick_axes(cx, cy, axes, numbers[:, s]), image_size)
        blurred = F.avg_pool2d(F.pad(filled[:, None], (1, 1, 1, 1), mode="reflect"), 3, 1)
        merged = torch.maximum(merged, F.interpolate(blurred, size=image_size, mode="bilinear", align_corners=False))
    picked = numbers.flatten(1)
    valid = choice.drawn[rows] & usable.gather(1, picked).all(1) & touches.gather(1, picked).any(1)
    return paper_resize(min_max(merged), size), valid


def pick_axes(cx: Tensor, cy: Tensor, axes: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
    """Centre x, y and semi-axes x, y of the ellipses `numbers` (B, P), each (B, P)."""
    return cx.gather(1, numbers), cy.gather(1, numbers), *(axes[..., i].gather(1, numbers) for i in (0, 1))


def _sampled(ellipses: tuple[Tensor, ...], image_size: tuple[int, int]) -> Tensor:
    """The filled canvas after the bilinear resize to 28x28, (B, 28, 28), without ever drawing the canvas."""
    dtype, device = ellipses[0].dtype, ellipses[0].device
    (ys, weight_y), (xs, weight_x) = (_bilinear_taps(n, dtype, device) for n in image_size)
    cx, cy, ax, ay = (t[:, :, None, None] for t in ellipses)
    inside = _filled(xs.flatten() - cx, ys.flatten()[:, None] - cy, ax, ay).any(1)
    canvas = torch.where(inside, 255.0, PAPER_BACKGROUND).to(dtype).view(-1, PAPER_GRID, 2, PAPER_GRID, 2)
    return torch.einsum("byixj,yi,xj->byx", canvas, weight_y, weight_x)


def _bilinear_taps(length: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two source pixels of each of the 28 targets of OpenCV's bilinear resize, and their weights, each (28, 2)."""
    source = (torch.arange(PAPER_GRID, device=device, dtype=dtype) + 0.5) * (length / PAPER_GRID) - 0.5
    source = source.clamp(0, length - 1)
    low = source.floor()
    share = source - low
    return torch.stack((low, (low + 1).clamp_max(length - 1)), 1), torch.stack((1 - share, share), 1)


def _filled(dx: Tensor, dy: Tensor, ax: Tensor, ay: Tensor) -> Tensor:
    """Pixels that OpenCV fills, up to a few on the rim.

    It draws a polygon with corners 5, 18, 30 or 90 degrees apart, and its edges with a line one pixel wide. Here an
    ellipse half a pixel larger, times the mean of the polygon's inner and outer radius.
    """
    longest = torch.maximum(ax, ay)
    inner = torch.where(longest < 10, math.cos(math.radians(15)), math.cos(math.radians(9)))
    inner = torch.where(longest < 3, math.cos(math.radians(45)), inner)
    radius = torch.where(longest < 15, (1 + inner) / 2, 1.0)
    u, v = dx / ((ax + 0.5) * radius), dy / ((ay + 0.5) * radius)
    return u.square() + v.square() <= 1


def paper_resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The paper's resize to an attention layer: bilinear, aligned corners, antialiased, clamped to the map's range."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    small = F.interpolate(maps, size=size, mode="bilinear", align_corners=True, antialias=True)
    return torch.minimum(torch.maximum(small, low), high)
