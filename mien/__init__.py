"""Mien: facial-expression and action-unit models that look where a FACS expert would look.

The package imports nothing heavy; import the module you need, e.g. ``from mien.cues import CUES``. The model for
pictures is here too: ``mien.load().predict("photo.jpg")``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_HOME = {
    "load": "predict.model", "FaceModel": "predict.model", "FacePrediction": "predict.results",
    "Predictions": "predict.predictions", "wrap": "wrapped.wrap",
    "compare": "audit.compare", "guide": "audit.guide", "evaluate_model": "audit.evaluate", "open_store": "data.store",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load what is named on first use (docs/predict.md, docs/compare.md)."""
    if name in _HOME:
        return getattr(import_module(f"mien.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mien' has no attribute '{name}'")
