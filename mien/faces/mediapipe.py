"""Faces and 68 landmarks from the nets of MediaPipe's Face Landmarker bundle, run by LiteRT without mediapipe itself.

Two nets: BlazeFace short range (Bazarevsky et al. 2019) finds boxes and six key points on a 128 x 128 view; the face
mesh (Kartynnik et al. 2019; Grishchenko et al. 2020) places 478 points on an upright 256 x 256 crop, of which
MESH_TO_68 takes 68. The steps around the nets follow the published graph: anchors, weighted non-maximum suppression, a
square region of 1.5 times the box, turned upright by the eyes. Added here: views with a margin for crops that the face
fills (FER-2013), tiles for small faces in large pictures, and faces upside-down, which the published graph reads with the mouth for
eyes.

Inside this module positions are continuous (a pixel covers [i, i + 1)); results are moved by -0.5 to pixel centres.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mien.errors import DataError
from mien.faces.align import Matrix, invert, warp
from mien.faces.blendshapes import net_input
from mien.faces.landmarks import MESH_TO_68
from mien.faces.models import find_bundle
from mien.faces.provider import Face, Provider, check_image, main_first, overlap
from mien.schema import OUTER_EYE_CORNERS, ByteArray, FloatArray

VIEW, CROP, POINTS = 128, 256, 478
MIN_DETECTION, MIN_PRESENCE, MIN_OVERLAP = 0.5, 0.5, 0.3
MIN_IN_TILE = 0.65
"""Detection score asked for in tiles: many views of a picture without people give many chances of a false face."""
ROI_SCALE = 1.5
MARGINS = (0.0, 0.3, 0.6)
"""Borders tried around the image, as a share of its longer side, until a face is found."""
TILES = ((2, 160), (4, 160), (8, 400), (16, 400), (32, 400))
"""Overlapping tiles that are searched too: how many to the longer side, and the pixels that one must have."""
STRIP = 8
"""More tiles than this to the longer side are only for strips (panoramas, long screenshots), and at least half as wide as these."""
LARGE = 0.18
"""Share of a view's side from which a face is large. Once all faces that were found are, smaller views are not searched:
people in one picture are about equally large, and a view shows faces down to a tenth of its side."""
DOUBTFUL = 0.85
"""Detection score under which a face may stand on its head. Of 60 portraits, upright ones have at least 0.89, turned by 120 to 180
degrees at most 0.83."""
REGION_AGAIN = 1.3
"""Side of the view in which such a detection is checked, as a share of its region."""
TURN_MARGIN = 0.4
"""By how much, in logits, the detector must be surer of the turned face. Over it are 1 of 600 upright synthetic faces (a mask), 3 of
402 upright faces of FER-2013, and 93 % of synthetic, 91 % of FER-2013's and all portraits that stand on their heads."""
TURNS = (np.pi / 2, np.pi, -np.pi / 2)
"""Views of the whole picture that are tried, turned by these angles, where nothing was found upright."""
TILTED = np.deg2rad(8)
"""Angle of the eyes in the mesh's view from which the mesh is placed once more on a view that is turned by it."""
MAX_FACES = 100
"""Detections of a picture that the mesh is placed on, at about 5 ms each."""


class Square(NamedTuple):
    """A turned square region of the image, continuous pixels; angle in radians from the x axis to the eye line."""

    x: float
    y: float
    side: float
    angle: float = 0.0


@contextmanager
def _without_notices() -> Iterator[None]:
    """LiteRT greets on the process's stderr, from C++, whenever a net is opened; no setting turns it off."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def open_nets(model: Path | None = None) -> Provider:
    """Open the bundle and return the provider function; one thread, about 0.1 s, to be done once per process."""
    detector, mesh, shapes = read_nets(model, ("face_detector", "face_landmarks_detector", "face_blendshapes"))
    anchors = make_anchors()

    def find(image: ByteArray) -> list[Face]:
        check_image(image)
        height, width = image.shape[:2]
        faces: list[Face] = []
        for views in search_plan(height, width):
            if faces and (len(views) == 1 or views[0].angle):
                continue  # a wider margin or a turn shows nothing new
            rows = np.concatenate([detect_view(image, view, detector, anchors) for view in views])
            rows = rows[rows[:, 16] >= (MIN_IN_TILE if len(views) > 1 else MIN_DETECTION)]
            rows = unseen(suppress(rows), faces)[: MAX_FACES - len(faces)]
            regions = [upright(image, row, detector, anchors) for row in rows]
            new = [face for face in (fit_mesh(image, region, mesh) for region in regions) if face]
            faces = distinct([*faces, *new])
            if faces and min(side_of(face) for face in faces) >= LARGE * views[0].side:
                break
        faces = [face._replace(blendshapes=shapes(net_input(face.mesh))[0]) for face in faces if face.mesh is not None]
        return main_first(faces, height, width)

    return find


def read_nets(model: Path | None, names: Sequence[str]) -> list[Net]:
    """Nets of the bundle by name, each with one thread; DataError where it cannot be used."""
    bundle = find_bundle(model)
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise DataError("provider 'mediapipe' needs LiteRT: pip install 'mien[faces]'.") from error
    try:
        with zipfile.ZipFile(bundle) as archive, _without_notices():
            return [Net(Interpreter(model_content=archive.read(f"{name}.tflite"), num_threads=1)) for name in names]
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{bundle}: not a face_landmarker.task bundle ({str(error)[:80]}); run 'mien models get face_landmarker'."
        ) from error


class Net:
    """A LiteRT interpreter as a function: float32 input (1, ...) -> its outputs in file order."""

    def __init__(self, interpreter: Any) -> None:
        interpreter.allocate_tensors()
        self._interpreter = interpreter
        self._input = interpreter.get_input_details()[0]["index"]
        self._outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def __call__(self, values: FloatArray) -> list[FloatArray]:
        """Run the net; outputs are copies."""
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def search_plan(height: int, width: int) -> list[list[Square]]:
    """Rounds of views, searched in turn until all faces found are LARGE in them: whole image, wider margins (only while
    there is no face), tiles of large images, then turned views of the whole (only while there is no face).
    """
    longer = max(height, width)
    plan = [[Square(width / 2, height / 2, longer * (1 + 2 * margin))] for margin in MARGINS]
    for parts, least in TILES:
        if longer / parts < least or (parts > STRIP and 2 * longer / parts < min(height, width)):
            break
        # Tiles overlap by half, so that a face of up to half a tile lies whole in one of them.
        side = longer / parts
        xs, ys = (centres(size, side) for size in (width, height))
        plan.append([Square(float(x), float(y), side) for y in ys for x in xs])
    plan.append([Square(width / 2, height / 2, longer, turn) for turn in TURNS])
    return plan


def centres(size: int, side: float) -> FloatArray:
    """Centres of tiles along one axis, at most half a side apart, from border to border; one where a tile is longer."""
    room = size - side
    if room <= 0:
        return np.array([size / 2], dtype=np.float32)
    return np.linspace(side / 2, size - side / 2, int(np.ceil(2 * room / side - 1e-6)) + 1, dtype=np.float32)


def sample(image: ByteArray, region: Square, size: int, replicate: bool) -> ByteArray:
    """The region of the image as an upright (size, size, 3) view; outside is black or the replicated border."""
    matrix = to_image(region, size)
    # Continuous positions to pixel centres on both sides.
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return warp(image, invert(matrix), size, replicate)


def to_image(region: Square, size: int) -> Matrix:
    """(2, 3) matrix from continuous positions in the (size, size) view to continuous positions in the image."""
    scale = region.side / size
    cos, sin = scale * np.cos(region.angle), scale * np.sin(region.angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.hstack([turn, (np.array([region.x, region.y]) - turn @ [size / 2, size / 2])[:, None]])


def make_anchors() -> FloatArray:
    """(896, 2) anchor centres in [0, 1]: 2 per cell of a 16 x 16 grid, then 6 per cell of an 8 x 8 grid, row by row."""
    grids = []
    for cells, repeat in ((16, 2), (8, 6)):
        centre = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centre, centre, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], 1), repeat, axis=0))
    return np.concatenate(grids).astype(np.float32)


def decode(regressors: FloatArray, logits: FloatArray, anchors: FloatArray) -> FloatArray:
    """Raw outputs of the detector (896, 16), (896,) -> (n, 17) rows of score >= MIN_DETECTION.

    A row is x0, y0, x1, y1, six key points (x, y: left eye, right eye, nose, mouth, left ear, right ear as seen in the
    image), score; positions in [0, 1] of the view. Raw values are pixels of the view relative to the anchor centre.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    keep = scores >= MIN_DETECTION
    values = (regressors[keep] / VIEW).reshape(-1, 8, 2)
    centre, half = values[:, 0] + anchors[keep], values[:, 1] / 2
    points = (values[:, 2:] + anchors[keep, None]).reshape(-1, 12)
    return np.concatenate([centre - half, centre + half, points, scores[keep, None]], axis=1).astype(np.float32)


def detect_view(image: ByteArray, view: Square, detector: Net, anchors: FloatArray) -> FloatArray:
    """Detections (n, 17) in one view, positions in continuous pixels of the image."""
    pixels = sample(image, view, VIEW, replicate=False).astype(np.float32)[None] / np.float32(127.5) - 1
    regressors, logits = detector(pixels)
    rows = decode(regressors[0], logits[0, :, 0], anchors)
    matrix = to_image(view, 1)
    points = rows[:, :16].reshape(-1, 8, 2) @ matrix[:, :2].T + matrix[:, 2]
    points[:, :2] = np.sort(points[:, :2], axis=1)  # a turned view exchanges the corners of a box
    return np.concatenate([points.reshape(-1, 16), rows[:, 16:]], axis=1).astype(np.float32)


def suppress(rows: FloatArray) -> FloatArray:
    """Weighted non-maximum suppression: each cluster (overlap > 0.3 with its best row) becomes its score-weighted mean.

    (n, 17) -> (m, 17), best score first; a cluster keeps the score of its best row.
    """
    rows = rows[np.argsort(-rows[:, 16], kind="stable")]
    kept = []
    while len(rows):
        near = overlap(rows[0, :4], rows[:, :4]) > MIN_OVERLAP
        near[0] = True
        merged = np.average(rows[near], axis=0, weights=rows[near, 16])
        merged[16] = rows[0, 16]
        kept.append(merged)
        rows = rows[~near]
    return np.array(kept, dtype=np.float32).reshape(-1, 17)


def region_of(row: FloatArray) -> Square:
    """Square around a detection (17,), 1.5 times the longer side of its box, turned so that the eyes are level."""
    x0, y0, x1, y1, left_x, left_y, right_x, right_y = (float(value) for value in row[:8])
    angle = float(np.arctan2(right_y - left_y, right_x - left_x))
    return Square((x0 + x1) / 2, (y0 + y1) / 2, ROI_SCALE * max(x1 - x0, y1 - y0), angle)


def upright(image: ByteArray, row: FloatArray, detector: Net, anchors: FloatArray) -> Square:
    """Region of a detection (17,); of the face that the detector sees there upside-down, where it is surer of that.

    The detector finds faces on their heads, with the mouth for eyes, at scores under DOUBTFUL; asked again on the region and
    on the region turned by 180 degrees, it scores the right way higher, and places it better.
    """
    region = region_of(row)
    if row[16] >= DOUBTFUL or region.side < 2:
        return region
    wide = region._replace(side=REGION_AGAIN * region.side)
    as_is, turned = (
        suppress(detect_view(image, view, detector, anchors))[:1]
        for view in (wide, wide._replace(angle=wide.angle + np.pi))
    )
    before = float(as_is[0, 16]) if len(as_is) else MIN_DETECTION
    if len(turned) and logit(float(turned[0, 16])) > logit(before) + TURN_MARGIN:
        return region_of(turned[0])
    return region


def logit(score: float) -> float:
    """log(p / (1 - p)) of a score, finite also at 1."""
    kept = min(max(score, 1e-6), 1 - 1e-6)
    return float(np.log(kept / (1 - kept)))


def fit_mesh(image: ByteArray, region: Square, mesh: Net) -> Face | None:
    """Run the mesh net on a region, once more where its eyes are not level there; None when the net sees no face."""
    found = place_mesh(image, region, mesh)
    if found is None:
        return None
    across = found.landmarks[OUTER_EYE_CORNERS[1]] - found.landmarks[OUTER_EYE_CORNERS[0]]
    off = float(np.arctan2(across[1], across[0])) - region.angle
    if abs(np.arctan2(np.sin(off), np.cos(off))) < TILTED:
        return found
    return place_mesh(image, region._replace(angle=region.angle + off), mesh) or found


def place_mesh(image: ByteArray, region: Square, mesh: Net) -> Face | None:
    """Run the mesh net on a region as it is; None when the net sees no face there."""
    if region.side < 2:
        return None
    # Outside the picture the replicated border gives the better points; where the face fills the picture (FER-2013) the
    # net sometimes takes the streaks for no face and accepts the same region on black.
    fills = region.side >= min(image.shape[:2])
    for replicate in (True, False) if fills else (True,):
        pixels = sample(image, region, CROP, replicate).astype(np.float32)[None] / np.float32(255)
        points, presence, _ = mesh(pixels)
        score = float(1 / (1 + np.exp(-np.clip(presence.ravel()[0], -80, 80))))
        if score >= MIN_PRESENCE:
            break
    else:
        return None
    matrix = to_image(region, CROP)
    points = points.reshape(POINTS, 3)
    placed = points[:, :2] @ matrix[:, :2].T + matrix[:, 2] - 0.5
    box = np.concatenate([placed.min(0), placed.max(0)]).astype(np.float32)
    mesh_points = np.column_stack([placed, points[:, 2] * (region.side / CROP)]).astype(np.float32)
    return Face(
        box, placed[list(MESH_TO_68)].astype(np.float32), score, "mediapipe", mesh_points
    )  # fmt: skip


def unseen(rows: FloatArray, faces: list[Face]) -> FloatArray:
    """Detections (n, 17) of what is not among the faces yet."""
    if not faces or not len(rows):
        return rows
    boxes = np.stack([face.box for face in faces])
    return rows[[bool(overlap(row[:4], boxes).max() <= MIN_OVERLAP) for row in rows]]


def side_of(face: Face) -> float:
    """Longer side of a face's box, pixels."""
    return float(max(face.box[2] - face.box[0], face.box[3] - face.box[1]))


def distinct(faces: list[Face]) -> list[Face]:
    """Leave out a face that overlaps a better-scored one by more than half (two tiles, one face)."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda item: -item.score):
        if not kept or overlap(face.box, np.stack([other.box for other in kept])).max() <= 0.5:
            kept.append(face)
    return kept
