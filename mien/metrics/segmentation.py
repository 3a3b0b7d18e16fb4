"""How well a segmented region fits the cue's region, per face."""

from __future__ import annotations

from torch import Tensor

from mien.maps import otsu_region, resize


def predicted_region(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, 1, h, w) of the segmentation head -> (B, 1, H, W) bool: resized, sigmoid, Otsu."""
    return otsu_region(resize(logits.float(), size).sigmoid())


def region_scores(predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Dice 2|P and T| / (|P| + |T|) and IoU |P and T| / |P or T| in per cent of bool regions (B, 1, h, w), each (B,).

    0..100, higher is better; two empty regions agree: 100.
    """
    p, t = predicted.flatten(1), true.flatten(1)
    both, either = (p & t).sum(1), (p | t).sum(1)
    iou = (both / either.clamp_min(1)).masked_fill(either == 0, 1.0)
    return {"dice": 100 * 2 * iou / (1 + iou), "iou": 100 * iou}
