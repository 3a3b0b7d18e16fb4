"""Mien beside the facial-expression models that run fully offline: a test split, photos, speed. About ten minutes on two cores.

    python benchmarks/peers.py --run RUN --store STORE --photos FOLDER --wheels WHEELS

RUN is a run folder (`bundled`: the bundled model), STORE a prepared store of FER-2013, FOLDER photos with `index.csv` (columns
`file` and `expression`, neutral or smiling) and a folder `negatives` without people, WHEELS the packages as fetched by
`pip download --no-deps`; nothing of them is installed. docs/predict-speed.md says what is compared.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peer_models import PEERS, Peer, crop_of
from benchmarks.rows import Cost, round_costs
from mien.errors import DataError, MienError
from mien.faces.pictures import load_picture
from mien.metrics.classification import accuracy, balanced_accuracy
from mien.predict.finders import ahead
from mien.predict.model import FaceModel
from mien.progress import default_workers

if TYPE_CHECKING:
    import torch

CALLED = {"neutral": "Neutral", "smiling": "Happiness"}
"""Column `expression` of the index -> what a model should call it."""
BATCH = 32

Tool = Callable[[Sequence[Path]], list[list[str]]]
"""Photo files -> the labels of the faces in each, the main or first one first."""


class Photos(NamedTuple):
    """A folder of photos of people, and of none."""

    files: list[Path]
    expressions: list[str]
    """Neutral or Happiness."""
    negatives: list[Path]


def read_photos(folder: Path) -> Photos:
    """`index.csv` and `negatives`; DataError where they are not there or name something else."""
    index, empty = folder / "index.csv", folder / "negatives"
    if not index.is_file() or not empty.is_dir():
        raise DataError(
            f"{folder} must hold index.csv and a folder negatives; docs/predict-speed.md says what is in them."
        )
    with index.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = {str(row.get("expression")) for row in rows} - CALLED.keys()
    if not rows or wrong:
        raise DataError(
            f"{index}: expression must be neutral or smiling, found {', '.join(sorted(wrong)) or 'no row'}."
        )
    negatives = sorted(path for path in empty.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return Photos([folder / row["file"] for row in rows], [CALLED[row["expression"]] for row in rows], negatives)


def read_rgb(file: Path) -> np.ndarray:
    pixels = load_picture(file)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def by_mien(model: FaceModel, batch: int) -> Tool:
    def labels(files: Sequence[Path]) -> list[list[str]]:
        found = model.predict(list(files), batch=batch, display=32)
        return [[face.expression for face in picture.faces] for picture in found]

    return labels


def by_peer(peer: Peer, model: FaceModel, batch: int) -> Tool:
    """A peer on the boxes of Mien's finder, with as many threads for it and as many faces at a time as Mien has."""

    def crops(file: Path) -> list[np.ndarray]:
        photo = read_rgb(file)
        assert model.provider is not None
        return [crop_of(photo, face.box) for face in model.provider(photo) if face.score >= model.least_face]

    return partial(in_batches, peer, crops, batch, 1 if batch == 1 else default_workers())


def by_itself(peer: Peer) -> Tool:
    """A peer with its own finder and crop, photo by photo."""
    return partial(in_batches, peer, lambda file: peer.own(read_rgb(file)), 1, 1)


def in_batches(
    peer: Peer, crops: Callable[[Path], list[np.ndarray]], batch: int, workers: int, files: Sequence[Path]
) -> list[list[str]]:
    """Labels of the faces of every photo, `batch` photos to a call of the net."""
    found: list[list[str]] = []
    held: list[list[np.ndarray]] = []
    for number, faces in enumerate(ahead(crops, files, workers, batch), start=1):
        held.append(faces)
        if len(held) == batch or number == len(files):
            rest = iter(peer.labels([face for one in held for face in one]))
            found += [[next(rest) for _ in one] for one in held]
            held = []
    return found


class Found(NamedTuple):
    """What a tool makes of photos."""

    smiles: float
    """Share of the smiling photos whose first face is called Happiness; one without a face counts as wrong."""
    neutrals: float
    """Share of the neutral ones called Neutral."""
    with_face: int
    """Photos of people in which a face was found."""
    false_faces: int
    """Faces found in photos without people."""


def judge(tool: Tool, photos: Photos) -> Found:
    said = [faces[0] if faces else None for faces in tool(photos.files)]
    pairs = list(zip(said, photos.expressions, strict=True))

    def share(name: str) -> float:
        right = [label == name for label, expected in pairs if expected == name]
        return sum(right) / max(len(right), 1)

    false = sum(map(len, tool(photos.negatives)))
    return Found(share("Happiness"), share("Neutral"), sum(label is not None for label in said), false)


def split_scores(
    models: dict[str, FaceModel], peers: dict[str, Peer], store: Path, whole: Path
) -> tuple[int, dict[str, tuple[float, float]]]:
    """Number of test faces of the store as the run splits it, and accuracy and balanced accuracy of each tool there.

    Peers get the pictures that the same faces have in the store `whole`.
    """
    from mien.calibrate.faces import logits_of
    from mien.data.labels import labels_of
    from mien.data.store import open_store
    from mien.evaluation.evaluate import recipe_on, rows_to_score

    faces, given = open_store(store), open_store(whole)
    model = models["Mien"]
    recipe = recipe_on(faces, model.recipe, model.facts)
    labels = labels_of(faces, recipe.data.scheme)
    rows, _ = rows_to_score(faces, recipe, "test", labels)
    said = {}
    for name, one in models.items():
        with one.autocast():
            said[name] = logits_of(one.net, recipe, faces, labels, rows, BATCH).argmax(1)
    places = {str(face): k for k, face in enumerate(given.ids)}
    theirs = np.array([places[str(face)] for face in faces.ids[rows]])
    for name, peer in peers.items():
        parts = [peer.labels(list(given.images(theirs[at : at + BATCH]))) for at in range(0, len(rows), BATCH)]
        said[name] = np.array([model.classes.index(label) for part in parts for label in part])
    truth = labels[rows]
    return len(rows), {name: (accuracy(k, truth), balanced_accuracy(k, truth)) for name, k in said.items()}


def tools_of(models: dict[str, FaceModel], peers: dict[str, Peer]) -> dict[str, dict[str, Tool]]:
    """Way -> name -> tool."""
    ways: dict[str, dict[str, Tool]] = {}
    for batch in (BATCH, 1):
        ways[f"batch {batch}"] = {
            **{name: by_mien(model, batch) for name, model in models.items()},
            **{name: by_peer(peer, models["Mien"], batch) for name, peer in peers.items()},
        }
    ways["own finder"] = {name: by_itself(peer) for name, peer in peers.items()}
    return ways


def speeds(ways: dict[str, dict[str, Tool]], files: list[Path], repeats: int) -> dict[str, dict[str, Cost]]:
    """Way -> name -> medians for one photo, all tools in turns."""
    calls = {(way, name): partial(tool, files) for way, tools in ways.items() for name, tool in tools.items()}
    costs = round_costs({f"{way}/{name}": call for (way, name), call in calls.items()}, repeats)

    def median(way: str, name: str) -> Cost:
        return Cost(*(statistics.median(values) / len(files) for values in zip(*costs[f"{way}/{name}"], strict=True)))

    return {way: {name: median(way, name) for name in tools} for way, tools in ways.items()}


def by_labels(run: str | None, precision: str) -> FaceModel | None:
    """The model that answers by its labels' head, for the benchmark of the labels; None where the run has one head."""
    import mien

    try:
        return mien.load(run, device="cpu", precision=precision, calibration="labels")
    except DataError:
        return None


def net_costs(models: dict[str, FaceModel], peers: dict[str, Peer], repeats: int) -> dict[str, dict[str, float]]:
    """Way -> name -> processor milliseconds a face of the net alone on one thread, median of `repeats` rounds in turns.

    Mien's own is shown in one view; `mien predict` takes two.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    crop = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    found: dict[str, dict[str, float]] = {}
    for batch in (1, BATCH):
        calls: dict[str, Callable[[], object]] = {}
        for name, model in models.items():
            side = model.recipe.model.size
            faces = torch.zeros(batch, 3, side, side).to(memory_format=torch.channels_last)
            calls[name] = partial(passed, model, faces)
        for name, peer in peers.items():
            calls[name] = partial(peer.net, np.stack([peer.prepare(crop)] * batch))
        costs = round_costs(calls, max(repeats, 20))
        spent = {name: statistics.median(cost.cpu for cost in rounds) for name, rounds in costs.items()}
        found[f"net alone, batch {batch}"] = {name: 1000 * seconds / batch for name, seconds in spent.items()}
    torch.set_num_threads(threads)
    return found


def passed(model: FaceModel, faces: torch.Tensor) -> None:
    """One pass of a net over a batch."""
    import torch

    with torch.inference_mode(), model.autocast():
        model.net(faces)


def table(names: Sequence[str], rows: list[tuple[str, dict[str, str]]]) -> str:
    """Markdown, a column for each tool."""
    lines = [f"| what | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    return "\n".join(lines + [f"| {what} | {' | '.join(row.get(name, '-') for name in names)} |" for what, row in rows])


def split_rows_of(count: int, scores: dict[str, tuple[float, float]]) -> list[tuple[str, dict[str, str]]]:
    words = (f"accuracy, {count:,} test faces, %", "balanced accuracy, the same faces, %")
    return [(what, {name: f"{pair[k]:.1%}"[:-1] for name, pair in scores.items()}) for k, what in enumerate(words)]


def photo_rows(way: str, found: dict[str, Found], photos: Photos) -> list[tuple[str, dict[str, str]]]:
    happy, neutral = (photos.expressions.count(name) for name in ("Happiness", "Neutral"))
    return [
        (f"{happy} smiles called Happiness, {way}, %", {name: f"{one.smiles:.1%}"[:-1] for name, one in found.items()}),
        (f"{neutral} neutral called Neutral, {way}, %", {n: f"{one.neutrals:.1%}"[:-1] for n, one in found.items()}),
        (f"photos with a face, of {happy + neutral}, {way}", {n: str(one.with_face) for n, one in found.items()}),
        (f"faces in {len(photos.negatives)} negatives, {way}", {n: str(one.false_faces) for n, one in found.items()}),
    ]


def speed_rows(costs: dict[str, dict[str, Cost]]) -> list[tuple[str, dict[str, str]]]:
    rows = []
    for way, row in costs.items():
        rows.append((f"photos/s, {way}", {name: f"{1 / cost.wall:.1f}" for name, cost in row.items()}))
        rows.append((f"processor ms a photo, {way}", {name: f"{cost.cpu * 1000:.1f}" for name, cost in row.items()}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--store", required=True, type=Path)
    parser.add_argument("--whole", type=Path, help="store with the pictures that peers get; --store unless said")
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--wheels", type=Path, default=Path("wheels"))
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the speed test")
    parser.add_argument("--timed", type=int, default=64, help="photos of the speed test, the first of the index")
    options = parser.parse_args()
    try:
        compare(options)
    except MienError as error:
        raise SystemExit(f"peers: {error}") from None


def compare(options: argparse.Namespace) -> None:
    import torch

    import mien

    photos = read_photos(options.photos)
    peers = {name: open_peer(options.wheels) for name, open_peer in PEERS.items()}
    run = None if options.run == "bundled" else options.run
    kinds = {"Mien": "32-true", "Mien, bf16": "bf16-mixed"}
    models = {name: mien.load(run, device="cpu", precision=kind) for name, kind in kinds.items()}
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(
        f"run {models['Mien'].name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, load before {load}\n"
    )
    ways = tools_of(models, peers)
    answering = {
        name: by_labels(run, kind) or model for (name, model), kind in zip(models.items(), kinds.values(), strict=True)
    }
    rows = split_rows_of(*split_scores(answering, peers, options.store, options.whole or options.store))
    for way, words in (("batch 32", "Mien's boxes"), ("own finder", "own finder")):
        rows += photo_rows(words, {name: judge(tool, photos) for name, tool in ways[way].items()}, photos)
    rows += speed_rows(speeds(ways, photos.files[: options.timed], options.repeats))
    for way, costs in net_costs(models, peers, options.repeats).items():
        rows.append((f"processor ms a face, {way}", {name: f"{cost:.2f}" for name, cost in costs.items()}))
    print(table([*models, *peers], rows))


if __name__ == "__main__":
    main()
