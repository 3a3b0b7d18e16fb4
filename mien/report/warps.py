"""Pictures of spatial transformers: where the net reads its input, what it sees there, and what it does class by class.

theta (B, 2, 3) is that of `torch.nn.functional.affine_grid`: it maps places of the picture that the net sees to places of
the input, (x, y) from -1 to 1 between the outer edges of both. Pictures and guides are tensors in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mien import draw
from mien.errors import DataError
from mien.schema import ByteArray

LINES = 5
"""Lines of the drawn grid each way, edges included."""
MARGIN = 0.15
"""Paper around a picture, as a share of its side, on which a grid is seen that leaves the picture."""
INK, FAINT = (255, 40, 30), (255, 170, 40)
OUTLINES = 40
"""Faces of a class whose outlines are drawn."""


def sampled(images: Tensor, theta: Tensor, padding: str = "zeros", outside: float = 0.5) -> Tensor:
    """What the net sees, (B, C, H, W): bilinear, corners not aligned; `outside`, or the border, where it reads beyond the picture."""
    _check(theta, images)
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    if padding == "border":
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return F.grid_sample(images - outside, grid, align_corners=False) + outside


def places(theta: Tensor, size: tuple[int, int], lines: int = LINES) -> Tensor:
    """(B, lines, lines, 2) xy pixels of an input of `size` (H, W), centres at .0, at which an even grid over what the net
    sees, edges included, is read; row by row from the top left corner.
    """
    steps = torch.linspace(-1, 1, lines, dtype=theta.dtype, device=theta.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    even = torch.stack((x, y, torch.ones_like(x)), dim=-1)
    found = torch.einsum("bij,rcj->brci", theta, even)
    return ((found + 1) * theta.new_tensor([size[1], size[0]]) - 1) / 2


def parts(theta: Tensor) -> dict[str, Tensor]:
    """What theta does, each (B,): `side`, `stretch`, `turn`, `right`, `down`.

    side: square root of the part of the picture's area that is read, below 1 where the net zooms in; stretch: longer over
    shorter singular value, 1 for a similarity, infinite where the picture collapses; turn: degrees of the nearest rotation, positive
    clockwise on the screen; right, down: shift of the centre in halves of the side.
    """
    a, b, x, c, d, y = theta.flatten(1).unbind(1)
    even, odd = torch.hypot(a + d, c - b), torch.hypot(a - d, c + b)  # sum and difference of the singular values
    return {
        "side": (a * d - b * c).abs().sqrt(),
        "stretch": (even + odd) / (even - odd).abs(),
        "turn": torch.rad2deg(torch.atan2(c - b, a + d)),
        "right": x,
        "down": y,
    }


def mean_theta(theta: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (over n) of each of the six numbers by class, (K, 2, 3) both; NaN for a class without faces."""
    member = F.one_hot(labels, classes).to(theta.dtype)
    count = member.sum(0)[:, None, None]
    mean = torch.einsum("bk,bij->kij", member, theta) / count
    square = torch.einsum("bk,bij->kij", member, (theta - mean[labels]) ** 2)
    return mean, (square / count).sqrt()


def sheet(
    images: Tensor,
    theta: Tensor,
    guides: Tensor | None = None,
    names: Sequence[str] = (),
    guide: str = "guide",
    cell: int = 128,
    masked: bool = False,
    padding: str = "zeros",
) -> ByteArray:
    """A column a face: the picture and its guide with the grid that is read, what the net sees, and theta in words.

    images (B, 3, H, W), theta (B, 2, 3), guides (B, 1, H, W) or None, names above the columns; `guide` names the row. `masked`
    multiplies the pictures by the guides before the net sees them; `padding` is that of the transformer, zeros or border.
    """
    _check(theta, images)
    points = places(theta, (images.shape[-2], images.shape[-1])).cpu().numpy()
    shown = [("picture", images), *([(guide, guides)] if guides is not None else [])]
    rows = [
        [with_grid(image, point, cell) for image, point in zip(pictures(some), points, strict=True)]
        for _, some in shown
    ]
    given = images * guides if masked and guides is not None else images
    rows.append([framed(image, cell) for image in pictures(sampled(given, theta, padding))])
    captions = [[""] * len(images) for _ in rows[:-1]] + [[in_words(one) for one in theta]]
    titles = [*(name for name, _ in shown), "what the net sees"]
    return draw.grid(rows, rows=titles, columns=names, captions=captions, cell=_wide(cell))


def class_sheet(
    images: Tensor,
    theta: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    guides: Tensor | None = None,
    rows: Tensor | None = None,
    guide: str = "guide",
    cell: int = 128,
    masked: bool = False,
    padding: str = "zeros",
) -> ByteArray:
    """A column a class: its mean face, and mean guide, with the grid of its mean theta and outlines of single faces.

    Below it the mean of what the net sees, the mean theta in words, and its spread. A class without faces is empty.

    Args:
        images: (R, 3, H, W).
        theta: (B, 2, 3) of all faces.
        labels: (B,) class index of all faces.
        classes: names.
        guides: (R, 1, H, W) or None.
        rows: (R,) which of the faces images and guides are of, where pictures of all would be too many; all when None.
        guide: name of the row of guides.
        cell: side of a picture in pixels.
        masked: as in `sheet`.
        padding: as in `sheet`.

    """
    chosen = torch.arange(len(theta)) if rows is None else rows
    _check(theta[chosen], images)
    mean, spread = mean_theta(theta.float(), labels, len(classes))
    given = images * guides if masked and guides is not None else images
    seen, shown = sampled(given, theta[chosen], padding), labels[chosen]
    stacks = [("mean face", images), *([(f"mean {guide}", guides)] if guides is not None else [])]
    titles = [*(name for name, _ in stacks), "what the net sees"]
    columns: list[list[ByteArray | None]] = []
    for k in range(len(classes)):
        own = shown == k
        if not own.any():
            columns.append([None] * len(titles))
            continue
        size = (images.shape[-2], images.shape[-1])
        point = places(mean[k : k + 1], size)[0].cpu().numpy()
        single = places(theta[labels == k][:OUTLINES], size, 2).cpu().numpy()
        cells = [with_grid(pictures(part[own].mean(0, keepdim=True))[0], point, cell, single) for _, part in stacks]
        columns.append([*cells, framed(pictures(seen[own].mean(0, keepdim=True))[0], cell)])
    words = [
        f"{in_words(mean[k])}\nspread {float(spread[k].mean()):.2f}\n{int((labels == k).sum())} faces"
        if (labels == k).any()
        else "no face"
        for k in range(len(classes))
    ]
    captions = [[""] * len(classes) for _ in titles[:-1]] + [words]
    cells_ = [list(row) for row in zip(*columns, strict=True)]
    return draw.grid(cells_, rows=titles, columns=list(classes), captions=captions, cell=_wide(cell))


def in_words(theta: Tensor) -> str:
    """One theta (2, 3) as a caption: part of the side that is read, turn, shift of the centre."""
    found = {name: round(float(value), 2) for name, value in parts(theta.float()[None]).items() if name != "stretch"}
    if not np.isfinite(list(found.values())).all():
        return "not finite"
    text = (
        f"side {found['side']:.2f}\nturn {found['turn']:+.0f}°\nright {found['right']:+.2f}\ndown {found['down']:+.2f}"
    )
    return text.replace("-0°", "+0°").replace("-0.00", "+0.00").replace("-", "−")


def pictures(images: Tensor) -> list[ByteArray]:
    """(B, 3 or 1, H, W) in [0, 1] -> RGB pictures, values outside clipped."""
    bytes_ = (images.detach().float().clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1)
    return list(bytes_.permute(0, 2, 3, 1).cpu().numpy())


def with_grid(image: ByteArray, points: np.ndarray, cell: int, outlines: np.ndarray | None = None) -> ByteArray:
    """The picture at `cell` pixels on paper, and over it the grid (n, n, 2) in the picture's own pixels; its top edge is thick.

    outlines (M, 2, 2, 2): corners of further grids, drawn faintly. Places that are not finite are left out.
    """
    canvas, start = framed(image, cell), round(MARGIN * cell)
    inner = canvas.copy()

    def line(on: ByteArray, way: np.ndarray, ink: tuple[int, int, int], thick: int) -> None:
        if np.isfinite(way).all():
            spots = ((way + 0.5) * cell / image.shape[0] - 0.5 + start) * 16  # four bits of sub-pixel place
            cv2.polylines(
                on, [np.rint(spots.clip(-(2**20), 2**20)).astype(np.int32)], False, ink, thick, cv2.LINE_AA, 4
            )

    for way in (*points[1:-1], *points.swapaxes(0, 1)[1:-1]):
        line(inner, way, INK, 1)
    canvas = np.rint(0.5 * canvas + 0.5 * inner).astype(np.uint8)  # the face stays readable below
    for corner in () if outlines is None else outlines:
        line(canvas, corner.reshape(4, 2)[[0, 1, 3, 2, 0]], FAINT, 1)
    for way in (points[-1], points[:, 0], points[:, -1]):
        line(canvas, way, INK, 2)
    line(canvas, points[0], INK, 4)
    return canvas


def framed(image: ByteArray, cell: int) -> ByteArray:
    """The picture scaled to `cell` pixels with paper around it, so that all rows of a sheet have one scale."""
    start = round(MARGIN * cell)
    canvas = np.full((_wide(cell), _wide(cell), 3), 236, np.uint8)
    canvas[start : start + cell, start : start + cell] = draw.fit(image, (cell, cell))
    return canvas


def _wide(cell: int) -> int:
    return cell + 2 * round(MARGIN * cell)


def _check(theta: Tensor, images: Tensor) -> None:
    if theta.shape != (len(images), 2, 3) or images.dim() != 4:
        raise DataError(
            f"theta {tuple(theta.shape)} and images {tuple(images.shape)} must be (B, 2, 3) and (B, C, H, W)."
        )
