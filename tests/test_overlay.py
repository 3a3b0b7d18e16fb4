"""Labels on pictures with several faces: none hides a face or another label, and none is lost."""

import numpy as np

from mien import draw
from mien.predict.overlay import annotated, free, label, labels, shortened
from mien.predict.results import FacePrediction, PicturePrediction

SHAPE, SIZE = (300, 600), 12
WHY = "yaw 62 over 40, size 9 under 12"


def face(number, box, outside=""):
    shown = np.zeros((8, 8, 3), np.uint8)
    return FacePrediction(
        number, box, None, 1.0, {"Happiness": 1.0}, "Happiness", 1.0, bool(outside), "aligned", shown, np.eye(2, 3), outside=outside
    )  # fmt: skip


def written(faces):
    """Texts with their places, and the plates."""
    told = labels(faces, [one.box for one in faces], SHAPE, SIZE)
    return told, [draw.plate_box(SHAPE, text, place, SIZE) for text, place in told]


def test_a_label_hides_no_face_and_no_other_label():
    faces = [face(1 + k, (5 + 74 * k, 100, 65 + 74 * k, 150), WHY if k % 2 else "") for k in range(8)]
    told, plates = written(faces)
    for k, plate in enumerate(plates):
        assert free(plate, [*plates[:k], *plates[k + 1 :], *(one.box for one in faces if one.face != k + 1)]), told
        assert told[k][0].split(":")[0] == str(k + 1)
    assert told[3][0] == shortened(faces[3], 8)  # no room for the reasons of all


def test_with_room_the_whole_label_stands_over_its_box():
    faces = [face(1, (20, 100, 60, 150), WHY), face(2, (450, 100, 490, 150))]
    assert written(faces)[0] == [(label(faces[0], 2), (20, 100)), (label(faces[1], 2), (450, 100))]


def test_a_crowd_without_a_free_place_is_drawn():
    faces = tuple(face(1 + k, (9 * k, 10 * k % 250, 60 + 9 * k, 50 + 10 * k % 250), WHY) for k in range(60))
    assert [text.split(":")[0] for text, _ in written(faces)[0]] == [str(1 + k) for k in range(60)]
    drawn = annotated(np.zeros((*SHAPE, 3), np.uint8), PicturePrediction("a.png", SHAPE[1], SHAPE[0], faces))
    assert drawn.shape == (*SHAPE, 3)


def test_boxes_do_not_cut_through_labels():
    faces = (face(1, (20, 100, 60, 150)), face(2, (90, 95, 260, 200)))
    drawn = annotated(np.zeros((*SHAPE, 3), np.uint8), PicturePrediction("a.png", SHAPE[1], SHAPE[0], faces))
    size = 16
    for text, place in labels(faces, [one.box for one in faces], SHAPE, size):
        left, top, right, bottom = draw.plate_box(SHAPE, text, place, size)
        alone = np.zeros_like(drawn)
        draw.plate(alone, text, place, size, draw.INK, (255, 196, 0))
        np.testing.assert_array_equal(drawn[top:bottom, left:right], alone[top:bottom, left:right])
