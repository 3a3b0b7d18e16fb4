"""Action-unit ellipses from 68 landmarks, for a whole batch on its device.

Two drawings. "face": sizes follow the face, axes follow the eye line, and a map cell holds the share of its area that
is covered, so that a map at 7x7 is the area average of one at 224x224. "canvas": the published drawing, evaluated only
at the pixels that its 28x28 resize reads.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.cues.codebook import Choice, Geometry
from mien.maps import min_max, published_resize
from mien.schema import OUTER_EYE_CORNERS

LEFT_EYE, RIGHT_EYE = OUTER_EYE_CORNERS
"""Outer eye corners."""
STRIPS, COLUMNS = 56, 28
"""Smaller maps are drawn on at least this many rows and columns and averaged, so that overlaps are counted once."""
CACHE = 2**17
"""Cells drawn at once on a CPU: what its cache holds."""
CHUNK = 256
"""Samples of small maps drawn at once on a CPU in windows, which hold far fewer cells."""
NEAR_ONE = 1 - 1e-6
"""Keeps the slope of the arc sine finite at the tips of an ellipse."""
PAPER_GRID = 28
PAPER_BACKGROUND = 1e-4
NOTHING = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])[:, None, None]
"""`Ellipses` of no width, drawn where a face does not use one."""


class Ellipses(NamedTuple):
    """Ellipses in image pixels, given by their horizontal chords. All (E, B): samples come last.

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
    x, y = landmarks.permute(2, 1, 0).contiguous()
    origin_x, origin_y = (x[LEFT_EYE] + x[RIGHT_EYE]) / 2, (y[LEFT_EYE] + y[RIGHT_EYE]) / 2
    across, down = x[RIGHT_EYE] - x[LEFT_EYE], y[RIGHT_EYE] - y[LEFT_EYE]
    distance = torch.hypot(across, down).clamp_min(1e-6)
    cos, sin = across / distance, down / distance
    moved_x, moved_y = x - origin_x, y - origin_y
    head_x = book.weights_x.to(x.dtype) @ torch.addcmul(moved_x * (cos / distance), moved_y, sin / distance)
    head_y = book.weights_y.to(x.dtype) @ torch.addcmul(moved_y * (cos / distance), moved_x, -sin / distance)
    count = len(book.offset)
    cx, cy = head_x[:count] + book.offset[:, :1], head_y[:count] + book.offset[:, 1:]
    a = distance * torch.maximum(head_x[count:] + book.plus[:, :1], book.least[:, :1]).clamp_min(1e-4)
    b = distance * torch.maximum(head_y[count:] + book.plus[:, 1:], book.least[:, 1:]).clamp_min(1e-4)
    half_y = torch.hypot(a * sin, b * cos)
    return Ellipses(
        origin_x + cx * across - cy * down,
        origin_y + cx * down + cy * across,
        a * b / half_y,
        half_y,
        (a - b) * (a + b) * (sin * cos) / half_y.square(),
    )


def coverage(
    ellipses: Ellipses, image_size: tuple[int, int], size: tuple[int, int], strength: Tensor | None = None
) -> Tensor:
    """Share of each cell of an (h, w) grid that the union of the ellipses (E, B) covers, (B, 1, h, w) in [0, 1].

    Pixel centres lie at whole numbers, so the canvas reaches from -0.5 to W - 0.5. Each row strip of the grid gets the
    mean chord over its height in closed form, so that areas are exact; the chord is then cut by the cells. The union of
    overlapping ellipses is taken on a grid of at least 56x28, then averaged. With `strength` (E, B) in [0, 1] an ellipse
    counts by it, and the strongest of overlapping ones wins.
    """
    rows, columns = grid(size)
    count = ellipses.cx.shape[1]
    part = max(1, CACHE // (rows * columns)) if ellipses.cx.device.type == "cpu" else count
    if count > part:
        split = zip(*(t.split(part, 1) for t in (*ellipses, *([] if strength is None else [strength]))), strict=True)
        return torch.cat([coverage(Ellipses(*some[:5]), image_size, size, *some[5:]) for some in split])
    edges = borders(ellipses.cx, image_size[1], columns)
    best = edges.new_zeros(rows, columns, count)
    top = torch.zeros_like(ellipses.cx[:, 0])
    for number, (low, high) in enumerate(zip(*chords(ellipses, top, rows, image_size[0] / rows), strict=True)):
        cut = torch.maximum(torch.minimum(edges, high[:, None]), low[:, None]).diff(dim=1)
        best = torch.maximum(best, cut if strength is None else cut * strength[number])
    return averaged(best, image_size[1], size)


def windowed_coverage(
    ellipses: Ellipses,
    used: Tensor,
    image_size: tuple[int, int],
    size: tuple[int, int],
    strength: Tensor | None = None,
) -> Tensor:
    """`coverage` of the ellipses where `used` (E, B) is set: several times faster on a CPU, without gradients.

    An ellipse lies at about the same place in every face. It is drawn for the whole batch at once, only in the window
    of the grid that it reaches in any face, and without width in the faces that do not use it.
    """
    rows, columns = grid(size)
    count = used.shape[1]
    part = max(1, CHUNK * STRIPS * COLUMNS // (rows * columns))
    if count > part:
        split = zip(
            *(t.split(part, 1) for t in (*ellipses, used, *([] if strength is None else [strength]))), strict=True
        )
        return torch.cat(
            [windowed_coverage(Ellipses(*some[:5]), some[5], image_size, size, *some[6:]) for some in split]
        )
    table = torch.stack(ellipses)
    if not table.sum().isfinite():  # coordinates beyond all measure, or eyes at one point
        used = used & table.isfinite().all(0).all(0)
    drawn = used.any(1).nonzero()[:, 0]
    best = table.new_zeros(rows, columns, count)
    if len(drawn):
        some = Ellipses(*torch.where(used[drawn], table[:, drawn], NOTHING.to(table)))
        windows = _windows(some, used[drawn], image_size, (rows, columns))
        tallest = int((windows[:, 2] - windows[:, 0]).amax())
        starts, ends = chords(some, windows[:, 0], tallest, image_size[0] / rows)
        edges = borders(table, image_size[1], columns)
        lines = zip(drawn.tolist(), starts[:, :, None], ends[:, :, None], windows.tolist(), strict=True)
        for number, low, high, (top, left, bottom, right) in lines:
            cut = edges[left : right + 1].clamp(low[: bottom - top], high[: bottom - top]).diff(dim=1)
            window = best[top:bottom, left:right]
            torch.maximum(window, cut if strength is None else cut * strength[number], out=window)
    return averaged(best, image_size[1], size)


def _windows(ellipses: Ellipses, used: Tensor, image_size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """First row, first column, last row + 1 and last column + 1 that each ellipse reaches in any face, (E, 4)."""
    cx, cy, half_x, half_y, skew = ellipses
    half_width = torch.hypot(half_x, skew * half_y)
    reach = torch.stack((cy - half_y, cx - half_width, -cy - half_y, -cx - half_width))
    top, left, bottom, right = torch.where(used, reach, torch.inf).amin(2)
    (rows, columns), (height, width) = cells, image_size
    bounds = (
        ((top + 0.5) * (rows / height)).floor().clamp(0, rows),
        ((left + 0.5) * (columns / width)).floor().clamp(0, columns),
        ((0.5 - bottom) * (rows / height)).ceil().clamp(0, rows),
        ((0.5 - right) * (columns / width)).ceil().clamp(0, columns),
    )
    return torch.stack(bounds, 1).int()


def grid(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that a map of `size` is drawn on: a multiple of it, at least 56x28."""
    return -(-STRIPS // size[0]) * size[0], -(-COLUMNS // size[1]) * size[1]


def borders(like: Tensor, length: int, cells: int) -> Tensor:
    """Borders of `cells` equal cells of [-0.5, length - 0.5], (cells + 1, 1)."""
    return torch.arange(cells + 1, device=like.device, dtype=like.dtype)[:, None] * (length / cells) - 0.5


def chords(ellipses: Ellipses, top: Tensor, rows: int, step: float) -> tuple[Tensor, Tensor]:
    """Left and right ends of the mean chord in `rows` strips of `step` pixels from strip `top` (E,) on, (E, rows, B).

    With t = (y - cy) / half_y the half chord half_x sqrt(1 - t^2) has the integral
    half_x half_y (asin t + t sqrt(1 - t^2)) / 2. The ends meet in a strip that the ellipse does not reach.
    """
    cx, cy, half_x, half_y, skew = (t[:, None] for t in ellipses)
    strips = (top[:, None] + torch.arange(rows + 1, device=cx.device, dtype=cx.dtype)) * step - 0.5
    t = (strips[..., None] - cy).div_(half_y).clamp_(-NEAR_ONE, NEAR_ONE)
    integral = torch.addcmul(t.asin(), t, (1 - t * t).sqrt_())
    chord = integral.diff(dim=1).mul_(half_x * half_y * (0.5 / step))
    # the middle of the chord, taken where the ellipse reaches into the strip
    middle = torch.addcmul(cx, skew * half_y / 2, t[:, 1:] + t[:, :-1])
    return middle - chord, middle + chord


def averaged(best: Tensor, width: int, size: tuple[int, int]) -> Tensor:
    """Covered pixels of each strip and column (rows, columns, B) -> share of each cell of the map, (B, 1, h, w).

    Slices are added: several times faster on a CPU than a mean over a middle axis.
    """
    (rows, columns, count), (h, w) = best.shape, size
    flat = reduce(torch.add, best.view(h, rows // h, columns * count).unbind(1))
    cells = reduce(torch.add, flat.view(h * w, columns // w, count).unbind(1))
    share = cells.T.contiguous().mul_(columns / width / (rows // h * (columns // w)))
    return share.clamp_(0, 1).view(count, 1, h, w)


def pick(ellipses: Ellipses, numbers: Tensor) -> Ellipses:
    """Ellipses `numbers` (B, S) of each sample, (S, B)."""
    return Ellipses(*(t.gather(0, numbers.T) for t in ellipses))


def known(landmarks: Tensor, book: Geometry) -> tuple[Tensor, Tensor]:
    """Landmarks with unknown points set to 0, and (B, E) bool: every point that the ellipse needs is known."""
    if landmarks.device.type == "cpu" and landmarks.sum().isfinite():  # the usual case; elsewhere the device would wait
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
    distance = eye_distance(landmarks)
    valid = choice.drawn[rows] & usable.gather(1, numbers).all(1) & (distance >= 1) & (distance < torch.inf)
    ellipses = face_ellipses(clean, book)
    if landmarks.device.type != "cpu" or ellipses.cx.requires_grad:
        maps = coverage(pick(ellipses, numbers), image_size, size)
    else:
        used = torch.zeros_like(usable).scatter_(1, numbers, valid[:, None].expand_as(numbers)).T
        maps = windowed_coverage(ellipses, used, image_size, size)
    return maps, valid & (maps.flatten(1).amax(1) > 0)


def draw_canvas(
    landmarks: Tensor, rows: Tensor, book: Geometry, choice: Choice, image_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Maps and validity by the published recipe (Belharbi et al. 2024), its integer steps and defects included.

    Landmarks truncated to integers; filled axis-aligned ellipses of value 255 on 1e-4; bilinear resize to 28x28 without
    antialiasing; 3x3 box blur; bilinear resize back; maximum over action units; min-max per image; then, for another
    `size`, bilinear with aligned corners and antialiasing, clamped to the map's own range.
    """
    valid = canvas_valid(landmarks, rows, book, choice, image_size)
    merged = canvas_maps(landmarks, choice.slots[rows], None, book, image_size)[0]
    return published_resize(min_max(merged), size), valid


def canvas_valid(
    landmarks: Tensor, rows: Tensor, book: Geometry, choice: Choice, image_size: tuple[int, int]
) -> Tensor:
    """Which faces have a map in `draw_canvas`, (B,) bool: every point is known, and some ellipse touches the canvas."""
    *_, usable, touches = canvas_ellipses(landmarks, book, image_size)
    picked = choice.slots[rows].flatten(1)
    return choice.drawn[rows] & usable.gather(1, picked).all(1) & touches.gather(1, picked).any(1)


def canvas_maps(
    landmarks: Tensor, numbers: Tensor, strength: Tensor | None, book: Geometry, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Action units `numbers` (B, S, P) merged by maximum, (B, 1, H, W), each times its `strength` (B, S) where given.

    Also (B, E) bool: the points of an ellipse are known; they are and it touches the canvas.
    """
    height, width = image_size
    cx, cy, axes, usable, touches = canvas_ellipses(landmarks, book, image_size)
    merged = torch.full((len(numbers), 1, height, width), PAPER_BACKGROUND, device=cx.device, dtype=cx.dtype)
    for s in range(numbers.shape[1]):
        filled = _sampled(pick_axes(cx, cy, axes, numbers[:, s]), image_size)
        blurred = F.avg_pool2d(F.pad(filled[:, None], (1, 1, 1, 1), mode="reflect"), 3, 1)
        drawn = F.interpolate(blurred, size=image_size, mode="bilinear", align_corners=False)
        merged = torch.maximum(merged, drawn if strength is None else drawn * strength[:, s, None, None, None])
    return merged, usable, touches


def canvas_ellipses(
    landmarks: Tensor, book: Geometry, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Every ellipse of a "canvas" codebook in whole pixels: centre x and y (B, E), semi-axes (B, E, 2).

    Also (B, E) bool: the points of an ellipse are known; they are and it touches the canvas.
    """
    height, width = image_size
    clean, usable = known(landmarks, book)
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
    return cx, cy, axes, usable, touches


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


def resized_canvas(maps: Tensor, seen_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Maps as drawn on the stored picture -> resized with it, to the nearest pixel as published, and then to `size`."""
    if tuple(maps.shape[-2:]) != seen_size:
        maps = F.interpolate(maps, size=seen_size, mode="nearest-exact")
    return published_resize(maps, size)
