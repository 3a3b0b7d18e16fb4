"""How much of a face something covers: guessed from the aligned face by a linear regressor that was shown covered photos.

`tools/occlusion.py` covers photos with hands, masks, bars, boxes and ellipses of many tones and textures, and fits it; what it tells
on people and covers that it never saw stands in docs/confidence.md.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from mien.schema import ByteArray, FloatArray

SIDE, COARSE = 32, 16
"""Pixels of the views in which edges and tones are looked at."""
TONES = 0.15
"""Weight of the tones beside the edges, whose numbers are smaller."""


def covered_share(view: ByteArray) -> float:
    """Share of an aligned face that is covered, from its inner part in grey (H, W): 0 for nothing, 1 for all of it."""
    weights = _weights()
    root = float(features(view) @ weights[:-1] + weights[-1])
    return min(max(root, 0.0), 1.0) ** 2


def features(view: ByteArray) -> FloatArray:
    """(1824,) of a grey view (H, W): histograms of oriented edges (Dalal and Triggs 2005), and tones less their mean.

    Edges: 49 blocks of 2 x 2 cells of 4 pixels, eight directions. Tones: 16 x 16, over their standard deviation.
    """
    import cv2

    small = cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    tones = cv2.resize(small.astype(np.float32), (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    tones = (tones - tones.mean()) / (tones.std() + 4)
    return np.concatenate([_edges().compute(small).ravel(), TONES * tones.ravel()]).astype(np.float32)


@cache
def _edges() -> Any:
    import cv2

    return cv2.HOGDescriptor((SIDE, SIDE), (8, 8), (4, 4), (4, 4), 8)


@cache
def _weights() -> FloatArray:
    """(1825,): of the features, and the constant; they give the root of the share."""
    with files("mien.faces").joinpath("occlusion_weights.npz").open("rb") as stream:
        return np.asarray(np.load(stream, allow_pickle=False)["weights"], dtype=np.float32)
