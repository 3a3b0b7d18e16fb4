"""What was published, as data: eleven methods with and without action units, and two ablations.

Source: Belharbi et al., *Guided Interpretable Facial Expression Recognition via Spatial Action Unit Cues*, FG 2024
(arXiv 2402.00281), tables 1 and 2 and the ablations of its supplement. Accuracy is a share here, per cent there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Settings = Mapping[str, Any]
"""Recipe key as section.key -> value."""
Pair = tuple[float, float]
"""Without and with action units."""

RAFDB, AFFECTNET = "rafdb", "affectnet"


class Published(NamedTuple):
    """Numbers of one method on one dataset's test faces, each without and with action units."""

    accuracy: Pair
    cam_cos: Pair | None
    """None where the method has no map of a class."""
    att_cos: Pair


class Method(NamedTuple):
    """A row of tables 1 and 2."""

    title: str
    training: str
    """Name of the training behind it; rows with one name are one net that several explainers score."""
    explainer: str | None
    """Map that CAM-COS scores; None where the net has no map of a class."""
    layer: int
    """Layer that is guided and that ATT-COS scores, from 1 (shallow); -1 is the last."""
    settings: Settings
    """What makes the method, at any scale."""
    published: dict[str, Published]
    small: Settings = MappingProxyType({})
    """Settings at the small scale, in place of those of the same name in `settings`."""


def _both(rafdb: Published, affectnet: Published) -> dict[str, Published]:
    return {RAFDB: rafdb, AFFECTNET: affectnet}


PLAIN: Settings = {"model.channels": None, "model.stem_pool": True}
"""Keys of the narrow ResNet that transformers do not take."""

METHODS: dict[str, Method] = {
    "cam": Method(
        "CAM (CVPR 2016)", "cam", "cam", -1, {"model.head": "gap"},
        _both(
            Published((0.8820, 0.8895), (0.55, 0.70), (0.57, 0.85)),
            Published((0.6088, 0.6237), (0.56, 0.69), (0.64, 0.82)),
        ),
    ),
    "wildcat": Method(
        "WILDCAT (CVPR 2017)", "wildcat", "cam", -1, {"model.head": "wildcat"},
        _both(
            Published((0.8826, 0.8885), (0.52, 0.69), (0.47, 0.85)),
            Published((0.5988, 0.6162), (0.62, 0.80), (0.61, 0.81)),
        ),
    ),
    "grad_cam": Method(
        "Grad-CAM (ICCV 2017)", "cam", "grad_cam", -1, {"model.head": "gap"},
        _both(
            Published((0.8839, 0.8885), (0.55, 0.74), (0.63, 0.85)),
            Published((0.6077, 0.6208), (0.53, 0.75), (0.65, 0.82)),
        ),
    ),
    "grad_cam_pp": Method(
        "Grad-CAM++ (WACV 2018)", "cam", "grad_cam_pp", -1, {"model.head": "gap"},
        _both(
            Published((0.8784, 0.8914), (0.60, 0.82), (0.52, 0.87)),
            Published((0.6022, 0.6245), (0.66, 0.83), (0.65, 0.82)),
        ),
    ),
    "acol": Method(
        "ACoL (CVPR 2018)", "acol", "cam", -1, {"model.head": "acol"},
        _both(
            Published((0.8794, 0.8868), (0.54, 0.67), (0.46, 0.84)),
            Published((0.5828, 0.6148), (0.55, 0.65), (0.60, 0.81)),
        ),
        {"model.head_options": {"width": 96}},
    ),
    "prm": Method(
        "PRM (CVPR 2018)", "prm", "cam", -1, {"model.head": "prm"},
        _both(
            Published((0.8813, 0.8888), (0.48, 0.59), (0.43, 0.85)),
            Published((0.5777, 0.6097), (0.52, 0.75), (0.55, 0.82)),
        ),
    ),
    "adl": Method(
        "ADL (CVPR 2019)", "adl", "cam", -1, {"model.head": "gap", "model.adl": 0.4},
        _both(
            Published((0.8745, 0.8865), (0.50, 0.63), (0.51, 0.85)),
            Published((0.5788, 0.6125), (0.54, 0.66), (0.65, 0.83)),
        ),
    ),
    "cutmix": Method(
        "CutMix (ICCV 2019)", "cutmix", "cam", 4, {"model.head": "gap", "augment.cutmix": 1.0},
        _both(
            Published((0.8839, 0.8859), (0.55, 0.57), (0.51, 0.80)),
            Published((0.5874, 0.5988), (0.56, 0.58), (0.57, 0.82)),
        ),
    ),
    "layer_cam": Method(
        "LayerCAM (TIP 2021)", "cam", "layer_cam", -1, {"model.head": "gap"},
        _both(
            Published((0.8790, 0.8888), (0.60, 0.84), (0.52, 0.86)),
            Published((0.6077, 0.6245), (0.66, 0.83), (0.65, 0.82)),
        ),
    ),
    "ts_cam": Method(
        "TS-CAM (ICCV 2021)", "ts_cam", "ts_cam", -1,
        {"model.head": "ts_cam", "model.backbone": "deit_small_patch16_224", "model.output_stride": None},
        _both(
            Published((0.8670, 0.8800), (0.58, 0.71), (0.55, 0.88)),
            Published((0.5899, 0.5954), (0.57, 0.58), (0.48, 0.79)),
        ),
        {
            "model.backbone": "deit_tiny_patch16_224",
            "model.backbone_options": {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 4}, **PLAIN,
        },
    ),
    "apvit": Method(
        "APViT (TAFFC 2022)", "apvit", None, -1,
        {
            "model.head": "cls", "model.backbone": "apvit", "model.size": 112,
            "model.output_stride": None, "model.pretrained": False,
        },
        _both(
            Published((0.9100, 0.9103), None, (0.38, 0.85)),
            Published((0.6062, 0.6228), None, (0.45, 0.84)),
        ),
        {
            "model.size": 48, **PLAIN,
            "model.backbone_options": {
                "trunk_layers": 18, "trunk_width": 16, "embed_dim": 96, "depth": 4, "num_heads": 4,
            },
        },
    ),
}  # fmt: skip
"""Row of tables 1 and 2 -> method, in the order of the paper."""

LAMBDA_ACCURACY = {0: 0.8820, 0.01: 0.881, 1: 0.884, 2: 0.888, 4: 0.8895, 10: 0.886}
"""lambda -> accuracy on RAF-DB with CAM, read off a plot (to about 0.001) but for 0 and 4, which the tables state."""

LAYER_ABLATION: dict[str, tuple[list[int], Pair]] = {
    "none": ([], (0.8820, 0.55)),
    "1": ([1], (0.8852, 0.58)),
    "2": ([2], (0.8826, 0.57)),
    "3": ([3], (0.8839, 0.56)),
    "4": ([4], (0.8862, 0.61)),
    "5": ([-1], (0.8895, 0.70)),
    "5+4": ([5, 4], (0.8878, 0.67)),
    "5+4+3": ([5, 4, 3], (0.8878, 0.67)),
    "5+4+3+2": ([5, 4, 3, 2], (0.8855, 0.67)),
    "all": ([5, 4, 3, 2, 1], (0.8846, 0.67)),
}
"""Guided layers -> (layers, -1 is the fifth and last; (accuracy, CAM-COS)) on RAF-DB with CAM."""
