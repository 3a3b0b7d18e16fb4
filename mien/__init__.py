"""Mien: facial-expression and action-unit models that look where a FACS expert would look.

The package imports nothing heavy; import the module you need, e.g. ``from mien.cues import CUES``.
"""

__version__ = "0.1.0"
