"""How well a net's own maps fit their cue: the one definition behind the log, TensorBoard, the report and `mien evaluate`.

A map is scored at the size of the picture, as published: the cue is drawn there, the map resized to it. What is printed is
`metrics.alignment.class_mean` over the faces with a cue.
"""

from __future__ import annotations

from torch import Tensor

from mien import maps
from mien.metrics.alignment import Resize, alignment_scores, attention_scores
from mien.schema import Cue, Output
from mien.training.guidance import TrainedMap


def attention(output: Output, layer: int) -> Tensor:
    """(B, 1, h, w) channel mean of a layer (index into features), as it lies on the input picture."""
    return maps.to_input(maps.channel_mean(output.features[layer]), output.theta)


def attention_fit(output: Output, layer: int, cue: Cue, resize: Resize) -> dict[str, Tensor]:
    """All alignment scores, (B,) each, of a layer's attention against a cue at the size of the picture; its cosine is ATT-COS.

    `resize` is that of the cue (`mien.cues.map_resize`).
    """
    return attention_scores(attention(output, layer), cue.maps, resize)


def trained_fit(seen: TrainedMap, cue: Cue, resize: Resize) -> dict[str, Tensor]:
    """The same of an attribution that the net was trained with, against its own cue."""
    return alignment_scores(maps.shift_to_zero(seen.maps), cue.maps, resize)
