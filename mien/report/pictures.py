"""Pictures of faces and maps: class means on the mean face, and the best and worst single faces."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from mien import draw
from mien.errors import DataError
from mien.report.runs import Group, Run, same_faces
from mien.report.words import MAPS
from mien.schema import ByteArray

CELL = 104
COLUMNS = 6
MEAN_FACES = 60
"""Faces of a class behind the mean maps; enough for a readable outline."""
ABREAST = 2
"""Expressions side by side in the strips."""
RECIPES = 4
"""Single faces are shown for this many recipes at most; the rest would make the page hard to load."""


class Selection(NamedTuple):
    """One strip of single faces."""

    title: str
    picture: str
    """Data URI."""


class Faces:
    """Pixels and landmarks of the faces that a run was scored on, read from its store."""

    def __init__(self, run: Run) -> None:
        from mien.data.framed import FramedStore
        from mien.data.framing import Framing
        from mien.data.observed import open_faces

        self.run, data = run, run.recipe.data
        self.store = open_faces(data.store, data.action_units)
        if "framing" in run.results:
            self.store = FramedStore(self.store, Framing(**run.results["framing"]))
        if self.store.fingerprint != run.results["store_fingerprint"]:
            raise DataError(f"the store '{self.store.path}' holds other faces than {run.name} was scored on")

    def images(self, which: np.ndarray) -> ByteArray:
        """(B, H, W, 3) RGB of faces by their place in maps/faces.npz."""
        return self.store.images(self.run.faces["row"][which])

    def cues(self, which: np.ndarray) -> np.ndarray:
        """(B, H, W) the plain cue of these faces."""
        from dataclasses import replace

        import torch

        from mien.cues import render_cue

        side, config = self.store.info.size, replace(self.run.recipe.cue, control="none")
        pictures = None
        if config.kind == "saliency":
            from mien.data.transforms import as_pictures

            pictures = as_pictures(self.images(which))
        rows = self.run.faces["row"][which]
        cue = render_cue(
            config,
            torch.from_numpy(self.store.landmarks_of(rows)),
            torch.from_numpy(self.run.faces["label"][which]),
            scheme=self.run.recipe.data.scheme, image_size=(side, side), size=(side, side), images=pictures,
            action_units=torch.from_numpy(self.store.action_units[rows]),
        )  # fmt: skip
        return np.asarray(cue.maps[:, 0].numpy())

    def by_id(self, name: str) -> tuple[ByteArray, np.ndarray]:
        """(H, W, 3) RGB and (H, W) cue of the face with this id."""
        which = np.flatnonzero(self.run.faces["id"] == name)
        return self.images(which)[0], self.cues(which)[0]


def data_uri(sheet: ByteArray) -> str:
    """A sheet of faces as JPEG: a fifth of the PNG, and no score is read from it."""
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def open_faces(run: Run) -> tuple[Faces | None, str]:
    """The faces of a run, or None and the reason in words."""
    try:
        return Faces(run), ""
    except DataError as error:
        return None, str(error)


def class_maps(groups: Sequence[Group], faces: Faces | None, title: str = "") -> ByteArray:
    """Grid: the mean cue, then attention and CAM of each recipe; columns are classes. Each map over its own maximum."""
    names = groups[0].first.classes
    backs = [_mean_face(faces, k) for k in range(len(names))] if faces else [None] * len(names)
    rows, titles = [_row(groups[0].first.means["cue"], backs)], ["cue"]
    for group in groups:
        kinds = {"attention": "attention", group.first.picture_map: map_title(group.first)}
        for kind, word in ((kind, word) for kind, word in kinds.items() if kind is not None):
            rows.append(_row(np.mean([run.means[kind] for run in group.runs], axis=0), backs))
            titles.append(f"{group.name}: {word}")
    return draw.grid(rows, rows=titles, columns=names, cell=CELL, title=title, bar=True)


def map_title(run: Run) -> str:
    """Name of the map that is shown beside the attention."""
    name = run.picture_map
    return MAPS[name][0] if name in MAPS else name or "no class map"


def _mean_face(faces: Faces, label: int) -> ByteArray | None:
    which = np.flatnonzero(faces.run.faces["label"] == label)[:MEAN_FACES]
    return np.rint(faces.images(which).mean(0)).astype(np.uint8) if len(which) else None


def _row(maps: np.ndarray, backs: Sequence[ByteArray | None]) -> list[ByteArray | None]:
    cells: list[ByteArray | None] = []
    for map_, back in zip(maps, backs, strict=True):
        top = float(np.nanmax(map_))
        if top <= 0:
            cells.append(_grey(back) if back is not None else np.full((8, 8, 3), 238, np.uint8))
        elif back is None:
            cells.append(draw.colour(map_ / top))
        else:
            cells.append(draw.overlay(_grey(back), map_ / top))
    return cells


def _grey(image: ByteArray) -> ByteArray:
    level = np.rint(image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)


def single_faces(group: Group, faces: Faces) -> list[Selection]:
    """Best and worst aligned faces, and the most confident right and wrong predictions, of a recipe's first run."""
    run = group.first
    if "map:attention" not in run.faces:
        return []
    score = np.nan_to_num(run.faces[f"{run.last_layer}/cosine"])
    valid, top = run.faces["valid"], run.faces["probabilities"].max(1)
    choices = (
        ("Attention agrees best with the cue", np.where(valid, -score, np.inf)),
        ("Attention agrees least with the cue", np.where(valid, score, np.inf)),
        ("Most confident and right", np.where(run.right, -top, np.inf)),
        ("Most confident and wrong", np.where(run.right, np.inf, -top)),
    )
    selections = []
    for title, order in choices:
        which = np.argsort(order, kind="stable")[:COLUMNS]
        which = which[np.isfinite(order[which])]
        if len(which):
            selections.append(Selection(title, data_uri(_faces_grid(run, faces, which, score))))
    return selections


def comparable(groups: Sequence[Group]) -> list[Group]:
    """The first group, and those that scored the same faces with the same classes."""
    return [group for group in groups if group is groups[0] or same_faces(groups[0].first, group.first)]


def expression_strips(groups: Sequence[Group], faces: Faces | None) -> ByteArray | None:
    """For each class picture, cue, class map and attention of its typical face, a line a recipe; None where no class has a cue.

    Typical: the median of its class by the last layer's cosine, averaged over the recipes, so nobody picks by eye. Each
    map is stretched to its own range. `groups` from `comparable`; without `faces` there are the two maps alone.
    """
    groups = [group for group in groups if "map:attention" in group.first.faces][:RECIPES]
    rows = typical_faces([group.first for group in groups]) if groups else {}
    if not rows:
        return None
    run = groups[0].first
    shown = " / ".join(dict.fromkeys(map_title(group.first) for group in groups))
    heads = [*(["picture, answer", "cue"] if faces is not None else []), shown, "attention"]
    blocks = []
    for place, (label, own) in enumerate(rows.items()):
        strips = [_strip(group.first, faces, row) for group, row in zip(groups, own, strict=True)]
        cells, captions = zip(*strips, strict=True)
        titles = [group.name for group in groups] if place % ABREAST == 0 else []
        bar = place == min(ABREAST, len(rows)) - 1
        blocks.append(draw.grid(cells, titles, heads, captions, CELL, run.classes[label], bar))
    title = "One face of each expression: the median of its class by the cosine of the last layer; each map from 0 to 1"
    return draw.tile(blocks, ABREAST, title)


def typical_faces(runs: Sequence[Run]) -> dict[int, list[int]]:
    """Class -> place in each run's faces of the face with the median mean cosine; classes without a cue are left out."""
    ids = runs[0].faces["id"]
    for run in runs:
        ids = ids[np.isin(ids, run.faces["id"][run.faces["valid"]])]
    places = [{name: k for k, name in enumerate(run.faces["id"])} for run in runs]
    rows = np.array([[place[name] for name in ids] for place in places], dtype=np.int64)
    cosines = [run.faces[f"{run.last_layer}/cosine"][own] for run, own in zip(runs, rows, strict=True)]
    score, label = np.nan_to_num(np.mean(cosines, axis=0)), runs[0].faces["label"][rows[0]]
    chosen = {}
    for k in np.unique(label):
        members = np.flatnonzero(label == k)
        middle = members[np.argsort(score[members], kind="stable")[len(members) // 2]]
        chosen[int(k)] = [int(own[middle]) for own in rows]
    return chosen


def panel(run: Run, faces: Faces | None, row: int) -> ByteArray:
    """Picture, cue, class map and attention of one scored face, its true class above."""
    cells, captions = _strip(run, faces, row)
    heads = [*(["picture, answer", "cue"] if faces is not None else []), map_title(run), "attention"]
    return draw.grid([cells], [], heads, [captions], CELL, run.classes[int(run.faces["label"][row])])


def _strip(run: Run, faces: Faces | None, row: int) -> tuple[list[ByteArray | None], list[str]]:
    """Picture, cue, class map and attention of one face in a run, with a caption each."""
    share = run.faces["probabilities"][row]
    cells: list[ByteArray | None] = []
    texts: list[str] = []
    image = None
    if faces is not None:
        image, cue = faces.by_id(str(run.faces["id"][row]))
        cells, texts = [image, draw.overlay(image, cue)], [f"{run.classes[int(share.argmax())]} {share.max():.2f}", ""]
    for kind, score in ((run.picture_map, run.picture_map), ("attention", run.last_layer)):
        map_ = run.faces[f"map:{kind}"][row].astype(np.float32) if kind else None
        cells.append(None if map_ is None else draw.colour(map_) if image is None else draw.overlay(image, map_))
        texts.append(f"cosine {np.nan_to_num(run.faces[f'{score}/cosine'][row]):.2f}" if kind else "")
    return cells, texts


def _faces_grid(run: Run, faces: Faces, which: np.ndarray, score: np.ndarray) -> ByteArray:
    images, cues, names = faces.images(which), faces.cues(which), run.classes
    share = run.faces["probabilities"][which]

    def over(maps: np.ndarray) -> list[ByteArray]:
        return [draw.overlay(image, map_.astype(np.float32)) for image, map_ in zip(images, maps, strict=True)]

    def cosines(values: np.ndarray) -> list[str]:
        return [f"cosine {values[k]:.2f}" if run.faces["valid"][k] else "no cue" for k in which]

    said = [f"says {names[k]} {p:.2f}" for k, p in zip(share.argmax(1), share.max(1), strict=True)]
    with_cue = [draw.overlay(image, cue) if cue.any() else image for image, cue in zip(images, cues, strict=True)]
    rows, titles = [list(images), with_cue, over(run.faces["map:attention"][which])], ["picture", "cue", "attention"]
    captions = [said, [""] * len(which), cosines(score)]
    if run.picture_map is not None:
        rows.append(over(run.faces[f"map:{run.picture_map}"][which]))
        titles.append(map_title(run))
        captions.append(cosines(np.nan_to_num(run.faces[f"{run.picture_map}/cosine"])))
    truth = [names[k] for k in run.faces["label"][which]]
    return draw.grid(rows, rows=titles, columns=truth, captions=captions, cell=CELL)
