"""Cues: where the evidence should be, rendered for a batch on its device at any resolution from landmarks only.

`from mien.cues import CueConfig` stays light; the rendering functions load torch when they are first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mien.cues.config import CueConfig

if TYPE_CHECKING:
    from mien.cues.codebook import load_codebook
    from mien.cues.controls import MeanCue
    from mien.cues.render import CONTROLS, CUES, has_cue, map_resize, mean_cue, per_class_maps, render_cue

__all__ = [
    "CONTROLS",
    "CUES",
    "CueConfig",
    "MeanCue",
    "has_cue",
    "load_codebook",
    "map_resize",
    "mean_cue",
    "per_class_maps",
    "render_cue",
]
_HOME = {"MeanCue": "controls", "load_codebook": "codebook"}


def __getattr__(name: str) -> Any:
    """Load the rendering functions on first use."""
    if name in __all__:
        return getattr(import_module(f"mien.cues.{_HOME.get(name, 'render')}"), name)
    raise AttributeError(f"module 'mien.cues' has no attribute '{name}'")
