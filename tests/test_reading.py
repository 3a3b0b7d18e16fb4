"""From a store to a batch: JPEG decoded small, faces prepared a few at a time, copies beside the net's work."""

from contextlib import contextmanager
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tiny
import torch

from mien.config import AugmentConfig, ModelConfig
from mien.data import loader as reading
from mien.data.framed import FramedStore
from mien.data.framing import framing_of
from mien.data.loader import Loader, load_memory, read_faces
from mien.data.store import Store, write_store
from mien.data.transforms import resize_faces
from mien.schema import Record

CPU = torch.device("cpu")


def faces(size: int, encoding: str, folder, channels: int = 3) -> Store:
    rng = np.random.default_rng(0)
    made = []
    for k in range(6):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        made.append(Record(str(k), image, "train", None, "Fear", landmarks=tiny.points(size)))
    return write_store(made, folder, dataset="toy", size=size, channels=channels, encoding=encoding)


@pytest.mark.parametrize(
    ("size", "encoding", "side", "shrink"),
    [(64, "jpeg", 32, 2), (64, "jpeg", 33, 1), (64, "jpeg", 20, 2), (64, "jpeg", 16, 4), (64, "jpeg", 8, 8),
     (65, "jpeg", 16, 1), (66, "jpeg", 16, 2), (64, "png", 16, 1), (64, "raw", 16, 1)],
)  # fmt: skip
def test_a_jpeg_that_is_twice_as_large_is_decoded_small(size, encoding, side, shrink, tmp_path) -> None:
    store = faces(size, encoding, tmp_path / "s")
    rows = np.arange(6)
    images, points = read_faces(store, rows, side)
    assert images.shape == (6, 3, size // shrink, size // shrink)
    whole = torch.from_numpy(store.images(rows)).permute(0, 3, 1, 2)
    means = torch.nn.functional.avg_pool2d(whole.float(), shrink)
    assert (images.float() - means).abs().mean() < 2
    _, places = resize_faces(whole, torch.from_numpy(store.landmarks), side)
    found, there = resize_faces(images, points, side)
    assert found.shape[-1] == side
    assert torch.allclose(there, places, atol=1e-4)


def test_every_reader_of_a_store_decodes_alike(tmp_path) -> None:
    """Batches, pictures in memory, grey stores and loader sizes that change; a store in a run's framing is read whole."""
    store = faces(64, "jpeg", tmp_path / "s")
    order, labels = np.arange(6), np.zeros(6, np.int64)
    batch = next(iter(Loader(store, order, labels, size=32, batch=6, device=CPU)))
    memory = load_memory(store, ModelConfig(size=32), CPU)
    again = next(iter(Loader(store, order, labels, size=32, batch=6, device=CPU, memory=memory)))
    assert torch.equal(batch.images, again.images)
    assert torch.allclose(batch.landmarks, again.landmarks)
    grey = faces(64, "jpeg", tmp_path / "grey", channels=1)
    images, _ = read_faces(grey, order, 32)
    assert images.shape[-1] == 32
    assert torch.equal(images[:, 0], images[:, 2])
    framed = FramedStore(store, framing_of(store, order))
    assert read_faces(framed, order, 16)[0].shape[-1] == 64


@pytest.mark.parametrize("preprocessing", ["imagenet", "grey"])
def test_a_few_faces_at_a_time_are_the_same_faces(preprocessing, tmp_path, monkeypatch) -> None:
    store = tiny.store(tmp_path / "s", each=1)
    order, labels = np.arange(len(store)), np.zeros(len(store), np.int64)
    augment = AugmentConfig(grayscale=0.3, erase=0.3)

    def batch():
        asked = {"size": 24, "batch": 14, "device": CPU, "augment": augment, "preprocessing": preprocessing}
        return next(iter(Loader(store, order, labels, **asked)))

    whole = batch()
    monkeypatch.setattr(reading, "CACHED", 12 * 24**2 * 3)
    parts = batch()
    torch.testing.assert_close(parts.images, whole.images)
    torch.testing.assert_close(parts.landmarks, whole.landmarks, equal_nan=True)
    assert parts.images.stride(1) == whole.images.stride(1)


class Copied:
    """A tensor that says where it was copied, and for which stream it is kept."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def to(self, device, non_blocking):
        assert non_blocking
        self.said.append(f"copy {self.name}")
        return self

    def record_stream(self, stream) -> None:
        self.said.append(f"keep {self.name} for {stream.name}")


def test_batches_are_copied_on_a_stream_of_their_own(monkeypatch) -> None:
    """A copy is asked for beside the net's stream, which waits for that copy alone before it reads what came."""
    said: list[str] = []

    @contextmanager
    def on(stream):
        said.append(f"on {stream.name}")
        yield
        said.append("off")

    aside = SimpleNamespace(name="aside", record_event=lambda: "copied")
    current = SimpleNamespace(name="net", wait_event=lambda event: said.append(f"net waits for {event}"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: aside)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    items = [(Copied(f"images {k}", said), Copied(f"values {k}", said), k) for k in range(2)]
    for _, _, k in reading.on_device(iter(items), torch.device("cuda:0")):
        said.append(f"step {k}")
    one = ["on aside", "copy images 0", "copy values 0", "off", "net waits for copied", "keep images 0 for net",
           "keep values 0 for net", "step 0"]  # fmt: skip
    assert said == one + [line.replace("0", "1") for line in one]
