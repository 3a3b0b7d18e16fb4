"""The four seams of the system and the names that cross them.

disk -> Record -> prepared store -> Batch -> Cue -> model -> Output. Letters used everywhere: B batch, C channels,
H W image, h w map, K expressions, A action units, L landmarks (68).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

EXPRESSIONS = ("Neutral", "Happiness", "Surprise", "Fear", "Anger", "Disgust", "Sadness", "Contempt")
"""Every expression name that crosses a file or an API. Order = logit order of the schemes below."""

SCHEMES: dict[str, dict[str, tuple[str, ...]]] = {
    "basic-7": {name: (name,) for name in EXPRESSIONS[:7]},
    "basic-8": {name: (name,) for name in EXPRESSIONS},
    "polarity-3": {
        "Neutral": ("Neutral",),
        "Positive": ("Happiness",),
        "Negative": ("Anger", "Disgust", "Fear", "Sadness", "Contempt"),
    },
}
"""Label schemes: class name -> expressions that it gathers, in logit order. An expression in no class is left out
(polarity-3 has no place for Surprise, which may be either; Luna-Jimenez et al. 2021 leave it out too)."""

ACTION_UNITS = (
    "AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU14", "AU15", "AU16", "AU17", "AU18",
    "AU20", "AU22", "AU23", "AU24", "AU25", "AU26", "AU27", "AU28", "AU43", "AU45",
)  # fmt: skip
"""Columns of every AU intensity array (FACS numbers), intensities 0-5, NaN = unlabelled."""


class Preprocessing(NamedTuple):
    """What a net's pictures go through: RGB 0-255 pixels / scale, minus mean, over std, in RGB or BGR order."""

    mean: tuple[float, float, float]
    """In the order of the net's channels."""
    std: tuple[float, float, float]
    scale: float = 255.0
    bgr: bool = False
    grey: bool = False
    """Luma (ITU-R 601, Pillow's mode L) in place of each colour."""


PREPROCESSING: dict[str, Preprocessing] = {
    "imagenet": Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "vggface2": Preprocessing((131.0912, 103.8827, 91.4953), (1.0, 1.0, 1.0), scale=1.0),
    "vggface": Preprocessing((93.5940, 104.7624, 129.1863), (1.0, 1.0, 1.0), scale=1.0, bgr=True),
    "half": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "grey": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), grey=True),
}
"""Name -> what weights of that origin were trained on."""

SPLITS = ("train", "valid", "test")
LANDMARKS = 68
OUTER_EYE_CORNERS = (36, 45)
"""iBUG-68 points whose distance is the unit of sizes on a face."""


class Frame(NamedTuple):
    """One picture of a video file."""

    video: Path
    number: int
    """From 0."""


class Record(NamedTuple):
    """One face of a dataset, on its way from disk into a prepared store."""

    id: str
    """Unique inside the dataset; a relative path or a row name."""
    image: Path | bytes | ByteArray | Frame
    """File, encoded bytes, RGB (H, W, 3) / grey (H, W) uint8 pixels, or a frame of a video."""
    split: str = "train"
    """One of SPLITS."""
    subject: str | None = None
    expression: str | None = None
    """One of EXPRESSIONS, None when unlabelled."""
    votes: FloatArray | None = None
    """(8,) shares of annotator votes over EXPRESSIONS, sum 1; None without votes."""
    action_units: FloatArray | None = None
    """(A,) intensities 0-5 over ACTION_UNITS, NaN unlabelled."""
    landmarks: FloatArray | None = None
    """(68, 2) iBUG-68 (x, y) pixels of this image, NaN unknown, never clipped."""
    visible: npt.NDArray[np.bool_] | None = None
    """(68,) True where the point is not occluded."""
    box: FloatArray | None = None
    """(4,) face box x0, y0, x1, y1 in pixels."""
    pose: FloatArray | None = None
    """(3,) yaw, pitch, roll in degrees."""
    attributes: Mapping[str, str | float] = {}
    """Group labels and factors, e.g. {"skin": "IV", "light": 0.7}; strings make groups, numbers are factors."""
    same_person: str | None = None
    """Group of faces that differ in their actions alone: one person, pose, light and accessories (of a video: the person)."""
    same_actions: str | None = None
    """Group of faces with the same actions of any people."""


class Mix(NamedTuple):
    """One CutMix box (Yun et al. 2019, arXiv 1905.04899), the same for every face of a batch."""

    box: tuple[int, int, int, int]
    """y0, y1, x0, x1 pixels of the images, y1 and x1 not included; may be empty."""
    size: tuple[int, int]
    """(H, W) of the images."""
    partner: Tensor
    """(B,) int64 face of the batch whose pixels lie inside the box."""
    labels: Tensor
    """(B,) int64 class index of each face itself, outside the box."""

    @property
    def share(self) -> float:
        """Share of the picture that is still the face itself."""
        y0, y1, x0, x1 = self.box
        return 1 - (y1 - y0) * (x1 - x0) / (self.size[0] * self.size[1])


class Batch(NamedTuple):
    """A batch as the model and the cues see it, on one device."""

    images: Tensor
    """(B, 3, H, W) float, normalised."""
    expressions: Tensor
    """(B,) int64 class index in the run's scheme, -1 unknown; or (B, K) soft targets."""
    action_units: Tensor
    """(B, A) float 0-5, NaN unlabelled."""
    landmarks: Tensor
    """(B, 68, 2) xy pixels of `images`, NaN unknown."""
    rows: Tensor
    """(B,) int64 row in the store."""
    mix: Mix | None = None
    """Where CutMix put part of another face of the batch; then `expressions` are soft, and `landmarks` and
    `action_units` those of the face outside the box."""
    guide: Tensor | None = None
    """What steers the spatial transformer, where the model has one that wants it: guide images (B, 1, H, W) in [0, 1],
    or landmarks (B, 68, 2) for `transformer.kind: landmarks`."""
    labels: Tensor | None = None
    """(B,) class index or (B, K) soft labels for the second head, where `expressions` are votes; None without one."""
    canvas: int | None = None
    """Side in pixels of the stored pictures, on which cues are drawn; None for that of `images`."""


class Cue(NamedTuple):
    """Where the evidence should be."""

    maps: Tensor
    """(B, 1, h, w) in [0, 1]; zero where not valid."""
    valid: Tensor
    """(B,) bool; False rows (Neutral, no landmarks) are skipped by losses and scores, and counted."""


class Output(NamedTuple):
    """Everything that a model returns; nothing is kept on the module."""

    logits: Tensor
    """(B, K)."""
    features: tuple[Tensor, ...]
    """Layer 1 .. layer n, shallow to deep, each (B, C, h, w), on the autograd graph."""
    maps: Tensor | None
    """(B, K, h, w) class activation maps, raw; None where the head has none."""
    branches: tuple[Tensor, ...] = ()
    """Logits of further branches, each (B, K), that the classification loss also sees (ACoL)."""
    attention: Tensor | None = None
    """(B, 1, h, w) attention that the net itself computes for no class in particular (TS-CAM, APViT); else None."""
    token_attention: tuple[Tensor, ...] = ()
    """Attention between tokens of every block, averaged over heads, each (B, N, N), class token first; () without."""
    segmentation: Tensor | None = None
    """(B, 1, h, w) logits of the cue's region, where the model has a segmentation head; else None."""
    attributions: tuple[Tensor, ...] = ()
    """What the `attribute` function of the forward pass returned, each (B, C, h, w), on the graph; () without one."""
    theta: Tensor | None = None
    """(B, 2, 3) affine map from places of the picture that the backbone saw to places of the input picture, both from -1
    to 1 between the outer edges (x, y); None without a spatial transformer. Features and maps lie in what the backbone
    saw; `maps.to_input` brings them back."""
    label_logits: Tensor | None = None
    """(B, K) of the head that learns the dataset's labels, where `logits` learn the annotators' votes; None with one head."""


class Layers(NamedTuple):
    """What a backbone hands to its head."""

    features: tuple[Tensor, ...]
    """Layer 1 .. layer n, shallow to deep, each (B, C, h, w); the head sees the last."""
    class_token: Tensor | None = None
    """(B, C) after the final norm, where the net has one."""
    attention: Tensor | None = None
    """As in Output."""
    token_attention: tuple[Tensor, ...] = ()
    """As in Output."""


class HeadOutput(NamedTuple):
    """What a head makes of the layers."""

    logits: Tensor
    """(B, K)."""
    maps: Tensor | None
    """(B, K, h, w) raw class activation maps, or None."""
    branches: tuple[Tensor, ...] = ()
    """As in Output."""


class LinearChain(NamedTuple):
    """A head that is nothing but linear layers with a ReLU between them, so that its gradient can be written down."""

    pooled: bool
    """True: the layer is averaged over its cells first; False: it is flattened (C, h, w)."""
    weights: tuple[Tensor, ...]
    """First to last, each (out, in)."""
    biases: tuple[Tensor | None, ...]
    """First to last, each (out,) or None."""


def layer_index(layer: int, count: int, where: str = "layer") -> int:
    """Index into Output.features of a layer number: 1 = shallowest, -1 = last; UsageError for 0 and beyond both ends."""
    if layer == 0 or abs(layer) > count:
        raise UsageError(f"{where}: {layer} is not a layer of this backbone; it has 1 to {count} (or -1 to -{count}).")
    return layer - 1 if layer > 0 else count + layer


def scheme_classes(scheme: str) -> tuple[str, ...]:
    """Class names of a label scheme in logit order; UsageError with the nearest name when unknown."""
    if scheme not in SCHEMES:
        raise unknown_name("label scheme", scheme, SCHEMES)
    return tuple(SCHEMES[scheme])


def class_index(scheme: str) -> dict[str, int]:
    """Expression name -> class index in the scheme; expressions that the scheme leaves out are absent."""
    scheme_classes(scheme)
    return {name: k for k, names in enumerate(SCHEMES[scheme].values()) for name in names}


def class_positions(names: Sequence[str], classes: Sequence[str], key: str) -> list[int]:
    """Class index of each name, where names must be all classes in some order.

    Raises:
        UsageError: with the recipe's key, for a name that is no class, a class that is missing or named twice.

    """
    for name in names:
        if name not in classes:
            raise UsageError(f"{key}: {unknown_name('class', name, classes)}")
    if sorted(names) != sorted(classes):
        raise UsageError(f"{key}: {', '.join(names)} must name each of {', '.join(classes)} once.")
    return [list(classes).index(name) for name in names]
