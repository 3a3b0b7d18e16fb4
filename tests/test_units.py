"""Action units from blendshapes: names, sides, what counts as present, and what may be said."""

import numpy as np
import pytest

from mien.cues.config import FACE_REGIONS
from mien.faces import units as u
from mien.faces.blendshapes import BLENDSHAPES, INPUT_POINTS, net_input
from mien.faces.provider import Face
from mien.predict.units import PointUnits, spread
from mien.schema import ACTION_UNITS


def face(shapes: np.ndarray | None) -> Face:
    points = np.zeros((68, 2), np.float32)
    return Face(np.float32([0, 0, 9, 9]), points, 1.0, "mediapipe", np.zeros((478, 3), np.float32), shapes)


def shapes(**values: float) -> np.ndarray:
    found = np.full(52, 0.01, np.float32)
    for name, value in values.items():
        found[BLENDSHAPES.index(name)] = value
    return found


def test_the_map_is_whole():
    assert len(BLENDSHAPES) == 52
    assert len(INPUT_POINTS) == 146
    assert list(INPUT_POINTS) == sorted(set(INPUT_POINTS))
    assert INPUT_POINTS[-10:] == tuple(range(468, 478))  # both irises
    for unit in u.read_units():
        assert unit.source in ("regressor", "blendshapes")
        assert len(unit.blendshapes) == (2 if unit.sides else 1)
        assert {name for names in unit.blendshapes for name in names} <= set(BLENDSHAPES)
        assert set(unit.regions) <= set(FACE_REGIONS)
        assert unit.why
        if unit.sides:
            left, right = (sorted(names) for names in unit.blendshapes)
            assert [name.replace("Left", "Right") for name in left] == right
    names = [unit.name for unit in u.read_units()]
    assert {*names, "AU43"} >= set(ACTION_UNITS)
    assert {"AU12_L", "AU12_R", "AU14_L", "AU45_R", "AU61", "AU64"} <= set(u.unit_columns())


def test_the_net_gets_continuous_pixels():
    mesh = np.arange(478 * 3, dtype=np.float32).reshape(478, 3)
    given = net_input(mesh)
    assert given.shape == (1, 146, 2)
    assert given.dtype == np.float32
    assert given[0, 3].tolist() == (mesh[5, :2] + 0.5).tolist()


def test_intensities_by_a_loop():
    rng = np.random.default_rng(0)
    given = rng.uniform(0, 1, (3, 52)).astype(np.float32)
    given[0, 3], given[1, 4] = 0, 1
    found, weights = u.unit_intensities(given), u.unit_weights()
    for b in range(3):
        inner = [np.log(p / (1 - p)) for p in np.clip(given[b].astype(float), u.SMALLEST, 1 - u.SMALLEST)]
        for unit in u.read_units():
            for column, names in zip(unit.columns, unit.blendshapes, strict=True):
                k = u.unit_columns().index(column)
                if unit.source == "blendshapes":
                    expected = unit.gain * np.mean([given[b, BLENDSHAPES.index(name)] for name in names])
                else:
                    expected = sum(v * w for v, w in zip(inner, weights.matrix[:, k], strict=True)) + weights.bias[k]
                assert found[b, k] == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_smile_on_one_side_is_that_side_of_the_person():
    """Blendshapes that rise on the left raise the column of the left more."""
    columns = u.unit_columns()
    still = u.unit_intensities(shapes()[None])[0]
    for unit in u.read_units():
        if unit.name in ("AU10", "AU12", "AU14", "AU45"):
            moved = u.unit_intensities(shapes(**dict.fromkeys(unit.blendshapes[0], 0.6))[None])[0] - still
            left, right = (moved[columns.index(name)] for name in unit.columns)
            assert left > right, unit.name


def test_strengths_are_clipped_and_a_unit_is_the_mean_of_its_sides():
    level = np.zeros(len(u.unit_columns()), np.float32)
    level[u.unit_columns().index("AU12_L")] = 9
    level[u.unit_columns().index("AU12_R")] = 2
    level[u.unit_columns().index("AU25")] = -3
    found = u.named_strengths(level)
    assert (found["AU12_L"], found["AU25"]) == (1, 0)
    assert found["AU12"] == pytest.approx(0.7)
    assert tuple(found) == u.strength_names()


def test_only_proven_units_are_named():
    level = np.full(len(u.unit_columns()), 5, np.float32)
    named = u.present_units(level)
    assert set(named) == {unit.name for unit in u.read_units() if unit.proven}
    assert set(u.present_units(level, proven=False)) == {unit.name for unit in u.read_units()}
    assert u.present_units(np.zeros_like(level)) == {}
    assert {"AU12", "AU25", "AU26"} <= set(named)
    assert not {"AU6", "AU9"} & set(named)


def test_sides_in_words():
    present = {"AU12": ("AU12_L", "AU12_R"), "AU14": ("AU14_L",), "AU25": ("AU25",)}
    assert u.in_words(present) == "AU12 both sides, AU14 left, AU25"


def test_a_face_without_blendshapes_has_no_units():
    found = PointUnits().read([None, face(None), face(shapes(mouthSmileLeft=0.9, mouthSmileRight=0.9))], [])
    assert found[0].strengths == found[1].strengths == {}
    assert set(found[2].strengths) == set(PointUnits().names)
    wide = spread(found)
    assert np.isnan(wide[:2]).all()
    assert wide[2, ACTION_UNITS.index("AU12")] == pytest.approx(5 * found[2].strengths["AU12"], rel=1e-5)


def test_a_neutral_face_is_subtracted():
    smile = shapes(mouthSmileLeft=0.9, mouthSmileRight=0.9)
    neutral = u.unit_intensities(smile[None])[0]
    (found,) = PointUnits(neutral).read([face(smile)], [])
    assert set(found.strengths.values()) == {0.0}
    assert found.reading is None
