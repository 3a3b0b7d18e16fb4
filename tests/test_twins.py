"""Twins: groups of faces that share the person or the actions, from the renderer through the store to batches."""

from itertools import combinations
from pathlib import Path

import fake_datasets
import numpy as np
import pytest
import tiny

from mien.cli import main
from mien.data.parquet import export_parquet
from mien.data.store import open_store, write_store
from mien.data.twins import Twins, known_swaps, same_view, sub_blocks, twin_batches, twin_groups
from mien.errors import DataError, UsageError
from mien.schema import ACTION_UNITS, EXPRESSIONS, Record
from mien.synthetic.synthesize import synthesize
from mien.synthetic.twins import people_of, plan_twins, render_twin

TWINS = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("twins") / "s"
    return open_store(synthesize(out=out, faces=10, size=32, twins=TWINS, workers=1, sheet=out.parent / "sheet.png"))


def test_a_block_is_crossed(store):
    assert len(store) == 12  # 10 rounded up to whole blocks
    assert store.info.notes["twins"] == "2"
    person, actions = store.same_person.reshape(3, 2, 2), store.same_actions.reshape(3, 2, 2)
    assert (person[:, :, 0] == person[:, :, 1]).all()
    assert (actions[:, 0] == actions[:, 1]).all()
    assert len(set(store.same_person)) == len(set(store.same_actions)) == 6
    assert same_view(store, twin_groups(store))
    shown = ACTION_UNITS.index("AU25")
    for rows in (np.flatnonzero(store.same_person == name) for name in set(store.same_person)):
        assert len(set(store.subject[rows])) == len(set(store.split[rows])) == 1
        for name in ("light", "light_azimuth", "glasses", "occluder", "blur", "hair"):
            assert len({store.attributes[row][name] for row in rows}) == 1
        assert not np.array_equal(store.image(rows[0]), store.image(rows[1]))
    for rows in (np.flatnonzero(store.same_actions == name) for name in set(store.same_actions)):
        units = np.delete(store.action_units[rows], shown, axis=1)
        assert (units == units[0]).all()
        assert len(set(store.expression[rows])) == 1
        assert len(set(store.subject[rows])) == 2


def test_splits_share_no_people(store):
    people = [set(store.subject[store.split == name]) for name in ("train", "valid", "test")]
    assert all(people)
    assert len(set.union(*people)) == sum(map(len, people))
    plan = plan_twins(1000, 0, 4, None)
    dealt = people_of(plan)
    assert all(len(set(block)) == 4 for _, block in dealt)
    where = {name: {p for split, block in dealt if split == name for p in block} for name in ("train", "valid", "test")}
    assert len(set.union(*where.values())) == sum(map(len, where.values()))
    assert len(where["train"]) > 0.9 * 0.7 * plan.subjects  # nearly everyone has a turn


def test_any_face_is_rendered_alone(store):
    plan = plan_twins(10, 0, TWINS, None)
    record = render_twin(7, 32, plan, EXPRESSIONS[:7], 0.7)
    assert record.id == store.ids[7]
    np.testing.assert_array_equal(record.image, store.image(7))


def test_killed_twins_continue(store, tmp_path, capsys):
    part = tmp_path / "s"
    synthesize(out=part, faces=12, size=32, twins=TWINS, workers=1)
    assert open_store(part).fingerprint == store.fingerprint
    assert "3 blocks of 2 x 2 twins" in capsys.readouterr().out
    with pytest.raises(UsageError, match="twins"):
        synthesize(out=part, faces=12, size=32, workers=1)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--twins", "1"], "2 or more"),
        (["--twins", "-3"], "2 or more"),
        (["--twins", "4", "--subjects", "5"], "12 to 264"),
    ],
)
def test_numbers_that_do_not_go(arguments, word, tmp_path, capsys):
    assert main(["synthesize", "--out", str(tmp_path / "s"), *arguments]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_groups_go_with_a_store_and_decide_its_fingerprint(store, tmp_path):
    copy = tmp_path / "copy"
    assert main(["prepare", "synthetic", "--root", str(store.path), "--out", str(copy), "--size", "32"]) == 0
    assert list(open_store(copy).same_person) == list(store.same_person)
    assert open_store(copy).fingerprint == store.fingerprint
    faces = [Record(f"r{k}", np.full((32, 32), k, np.uint8)) for k in range(3)]
    plain = write_store(faces, tmp_path / "plain", dataset="toy", size=32)
    assert list(plain.same_person) == [None] * 3
    grouped = [face._replace(same_person="a" if k else None) for k, face in enumerate(faces)]
    some = write_store(grouped, tmp_path / "some", dataset="toy", size=32)
    assert list(some.same_person) == [None, "a", "a"]
    assert list(some.same_actions) == [None] * 3
    assert some.fingerprint != plain.fingerprint
    assert [column.tolist() for column in twin_groups(some)] == [[-1, 0, 0], [-1, -1, -1]]


def test_parts_with_and_without_groups(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    from mien.data import store as store_module

    faces = [Record(f"r{k}", np.full((8, 8), k, np.uint8), same_actions="x" if k > 1 else None) for k in range(4)]
    one = write_store(faces, tmp_path / "one", dataset="toy", size=8)
    monkeypatch.setattr(store_module, "PART_ROWS", 2)
    two = write_store(faces, tmp_path / "two", dataset="toy", size=8)
    assert list(two.same_actions) == [None, None, "x", "x"]
    assert two.fingerprint == one.fingerprint
    table = pq.read_table(export_parquet(two, tmp_path / "two.parquet"))
    assert table.column("same_actions").to_pylist() == [None, None, "x", "x"]
    plain = write_store([face._replace(same_actions=None) for face in faces], tmp_path / "p", dataset="toy", size=8)
    assert "same_actions" not in pq.read_table(export_parquet(plain, tmp_path / "p.parquet")).column_names


def test_check_tells_of_twins(store, tmp_path, capsys):
    assert main(["check", str(store.path), "--exact-only"]) == 0
    said = capsys.readouterr().out
    assert "twins: 6 groups of one person (12 faces, pose fixed), 6 of the same actions" in said
    assert "3 of 3 blocks" in said
    assert "LEAK: " not in said
    faces = [
        Record(f"r{k}", np.full((32, 32), k, np.uint8), ("train", "test")[k % 2], f"s{k}", same_person="a")
        for k in range(2)
    ]
    write_store(faces, tmp_path / "odd", dataset="toy", size=32)
    assert main(["check", str(tmp_path / "odd"), "--exact-only"]) == 0
    said = capsys.readouterr().out
    assert "1 groups of one person name several subjects" in said
    assert "LEAK: 1 groups of one person" in said
    tiny.store(tmp_path / "plain", each=1)
    main(["check", str(tmp_path / "plain"), "--exact-only"])
    assert "twins:" not in capsys.readouterr().out


def grid(blocks: int, people: int, actions: int) -> Twins:
    place = np.arange(blocks * people * actions).reshape(blocks, people, actions)
    person = place // actions
    same = np.broadcast_to(place[:, :1] % actions + actions * np.arange(blocks)[:, None, None], place.shape)
    return Twins(person.ravel(), same.ravel())


def test_batches_are_whole_sub_blocks():
    twins = grid(5, 4, 4)
    rows = np.arange(64)  # the last block is of another split
    batches = twin_batches(twins, rows, blocks=3, seed=1, epoch=1)
    assert [batch.shape for batch in batches] == [(3, 2, 2)] * 5 + [(1, 2, 2)]
    drawn = np.concatenate([batch.ravel() for batch in batches])
    assert sorted(drawn) == list(range(64))  # everyone once
    for batch in batches:
        person, same = twins.same_person[batch], twins.same_actions[batch]
        assert (person[:, :, 0] == person[:, :, 1]).all()
        assert (same[:, 0] == same[:, 1]).all()
        assert (person[:, 0] != person[:, 1]).all()
        assert (same[:, :, 0] != same[:, :, 1]).all()
    again = twin_batches(twins, rows, blocks=3, seed=1, epoch=1)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))
    later = twin_batches(twins, rows, blocks=3, seed=1, epoch=2, most=2)
    assert len(later) == 2
    assert not np.array_equal(later[0], batches[0])
    whole = twin_batches(twins, rows, blocks=8, people=4, actions=4, seed=0, epoch=1)
    assert whole[0].shape == (4, 4, 4)


def test_blocks_with_holes_and_several_faces_a_cell():
    rng = np.random.default_rng(0)
    person, same = rng.integers(0, 5, 200), rng.integers(0, 9, 200)  # a video: one block, cells of 0 to many frames
    same[:20] = -1
    twins = Twins(person, same)
    drawn = np.concatenate(
        [b.reshape(-1, 2, 2) for b in twin_batches(twins, np.arange(200), blocks=4, seed=0, epoch=1)]
    )
    assert len(set(drawn.ravel().tolist())) == drawn.size
    assert drawn.min() >= 20
    assert (person[drawn][:, :, 0] == person[drawn][:, :, 1]).all()
    assert (same[drawn][:, 0] == same[drawn][:, 1]).all()
    left = np.setdiff1d(np.arange(20, 200), drawn)
    cells = {(int(person[row]), int(same[row])) for row in left}
    for (i, k), (j, m) in ((a, b) for a in cells for b in cells if a[0] != b[0] and a[1] != b[1]):
        assert not {(i, m), (j, k)} <= cells  # by brute force: nothing whole was left over
    assert not sub_blocks([[[0], []], [[], [1]]], 2, 2, rng)


def test_known_swaps_against_a_loop():
    twins = grid(3, 3, 2)
    rows = np.arange(6, 18)
    swaps = known_swaps(twins, rows, seed=3)
    assert swaps.person.tolist() == rows.tolist()
    for z1, z2, truth in zip(*swaps, strict=True):
        assert twins.same_person[truth] == twins.same_person[z2] != twins.same_person[z1]
        assert twins.same_actions[truth] == twins.same_actions[z1] != twins.same_actions[z2]
    assert len(known_swaps(Twins(np.zeros(4, int), np.arange(4)), np.arange(4)).truth) == 0


def test_batches_that_cannot_be():
    none = Twins(np.full(4, -1), np.full(4, -1))
    with pytest.raises(DataError, match="--twins"):
        twin_batches(none, np.arange(4), blocks=1, seed=0, epoch=1)
    with pytest.raises(UsageError, match="at least 1"):
        twin_batches(grid(1, 2, 2), np.arange(4), blocks=1, people=1, seed=0, epoch=1)


def test_the_sheet_has_blocks(store):
    import cv2

    sheet = cv2.imread(str(Path(store.path).parent / "sheet.png"))
    assert sheet.shape == (4 * 32, 2 * 32, 3)  # two blocks, a row a person


def test_frames_of_videos_are_twins(tmp_path):
    fake_datasets.disfa(tmp_path / "disfa")
    assert (
        main(["prepare", "disfa", "--root", str(tmp_path / "disfa"), "--out", str(tmp_path / "d"), "--size", "32"]) == 0
    )
    frames = open_store(tmp_path / "d")
    assert list(frames.same_person) == list(frames.subject)
    codes = np.nan_to_num(frames.action_units, nan=-1)
    for i, j in combinations(range(len(frames)), 2):
        assert (frames.same_actions[i] == frames.same_actions[j]) == (codes[i] == codes[j]).all()
    assert not same_view(frames, twin_groups(frames))
    (batch,) = twin_batches(twin_groups(frames), np.arange(len(frames)), blocks=9, seed=0, epoch=1)
    assert (codes[batch][:, 0] == codes[batch][:, 1]).all()
    fake_datasets.bp4d(tmp_path / "bp4d")
    assert (
        main(["prepare", "bp4d", "--root", str(tmp_path / "bp4d"), "--out", str(tmp_path / "b"), "--size", "32"]) == 0
    )
    frames = open_store(tmp_path / "b")
    assert set(frames.same_person) == {"F001 T1", "M001 T2"}
    assert "." in frames.same_actions[0]  # units that are unknown


def test_groups_in_a_table(tmp_path):
    import cv2

    rows = ["file,clip,phase,same_person"]
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((32, 32), 60 * k, np.uint8))
        rows.append(f"{k}.png,{'unknown' if k == 2 else 'c1'},p{k},x")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    words = ["prepare", "table", "--root", str(tmp_path / "t.csv"), "--size", "32"]
    pairs = "image=file,same_person=clip,same_actions=phase"
    assert main([*words, "--out", str(tmp_path / "s"), "--columns", pairs]) == 0
    assert list(open_store(tmp_path / "s").same_person) == ["c1", "c1", None]
    assert list(open_store(tmp_path / "s").same_actions) == ["p0", "p1", "p2"]
