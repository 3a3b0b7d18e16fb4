"""Faces in photographs: detection, 68 landmarks and alignment behind one small interface.

Import from its modules: `detect` (Face, open_provider, locate, open_given), `landmarks`,
`landmark_files`, `align`, `mediapipe`, `models`.
"""
