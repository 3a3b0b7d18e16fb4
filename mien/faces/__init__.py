"""Faces in photographs: detection, 68 landmarks and alignment behind one small interface."""
