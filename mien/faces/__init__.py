"""Faces in photographs: detection, 68 landmarks and alignment behind one small interface."""

from mien.faces.align import align
from mien.faces.detect import PROVIDERS, Face, Provider, locate, open_given, open_provider
from mien.faces.landmarks import FLIP, flip_landmarks

__all__ = ["FLIP", "PROVIDERS", "Face", "Provider", "align", "flip_landmarks", "locate", "open_given", "open_provider"]
