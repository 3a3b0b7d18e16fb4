import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from mien.cli import main
from mien.data import store as store_module
from mien.data.parquet import export_parquet, parquet
from mien.data.store import Skipped, difference_hash, finished_ids, open_store, write_store
from mien.errors import DataError, UsageError
from mien.files import write_json
from mien.schema import ACTION_UNITS, EXPRESSIONS, Record

SIZE = 16


def picture(seed: int, grey: bool = False) -> np.ndarray:
    shape = (SIZE, SIZE) if grey else (SIZE, SIZE, 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 2)


def record(k: int, **fields) -> Record:
    return Record(id=f"r{k}", image=fields.pop("image", picture(k)), **fields)


def full(k: int) -> Record:
    landmarks = np.full((68, 2), np.nan, dtype=np.float32)
    landmarks[:10] = np.arange(20).reshape(10, 2) - 3.5  # out of the frame is kept
    units = np.full(len(ACTION_UNITS), np.nan, dtype=np.float32)
    units[3] = 2.5
    return record(
        k,
        split="test",
        subject="anna",
        expression="Fear",
        votes=np.full(8, 1 / 8, np.float32),
        action_units=units,
        landmarks=landmarks,
        pose=np.array([1, 2, 3], np.float32),
        attributes={"skin": "IV", "light": 0.5},
    )


def write(out, records, **options):
    return write_store(records, out, dataset="toy", size=SIZE, **options)


def test_round_trip_of_every_field(tmp_path):
    store = write(tmp_path / "s", [record(0), full(1), Skipped("bad", "corrupt, really")])
    assert len(store) == 2
    assert store.info.dataset == "toy"
    assert store.info.skipped == 1
    assert list(store.ids) == ["r0", "r1"]
    assert list(store.split) == ["train", "test"]
    assert list(store.subject) == [None, "anna"]
    assert list(store.expression) == [None, "Fear"]
    assert np.isnan(store.votes[0]).all()
    assert np.allclose(store.votes[1], 1 / 8)
    assert store.votes.shape == (2, len(EXPRESSIONS))
    assert store.action_units.shape == (2, len(ACTION_UNITS))
    assert store.action_units[1, 3] == 2.5
    assert np.isnan(store.action_units[1]).sum() == len(ACTION_UNITS) - 1
    np.testing.assert_array_equal(store.landmarks[1], full(1).landmarks)
    assert store.visible[1].sum() == 10
    assert not store.visible[0].any()
    assert store.pose[1].tolist() == [1, 2, 3]
    assert store.attributes == [{}, {"skin": "IV", "light": 0.5}]
    assert store.skipped == [Skipped("bad", "corrupt, really")]
    np.testing.assert_array_equal(store.image(1), picture(1))
    np.testing.assert_array_equal(store.images(np.array([1, 0])), [picture(1), picture(0)])
    with pytest.raises(IndexError, match="row 2"):
        store.image(2)
    with pytest.raises(IndexError):
        store.image(-1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_encodings_and_channels(tmp_path, channels, encoding):
    y, x = np.mgrid[:SIZE, :SIZE] * 8
    smooth = np.stack([x, y, x // 2 + 20], axis=2).astype(np.uint8)
    records = [record(0, image=smooth), record(1, image=smooth[:, :, 0].copy())]
    store = write(tmp_path / "s", records, channels=channels, encoding=encoding)
    colour = smooth if channels == 3 else np.repeat(cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    expected = np.stack([colour, np.repeat(smooth[:, :, :1], 3, axis=2)])
    assert np.abs(store.images([0, 1]).astype(int) - expected).max() <= (12 if encoding == "jpeg" else 0)
    raw = write(tmp_path / "raw", records, channels=channels)
    assert raw.fingerprint == store.fingerprint  # of the pixels that went in


def test_many_parts_fingerprint_and_pickle(tmp_path, monkeypatch):
    one = write(tmp_path / "one", [full(k) for k in range(7)])
    monkeypatch.setattr(store_module, "PART_ROWS", 3)
    many = write(tmp_path / "many", [full(k) for k in range(7)])
    assert [part["rows"] for part in many.info.parts] == [3, 3, 1]
    assert one.fingerprint == many.fingerprint
    np.testing.assert_array_equal(many.images(range(7)), one.images(range(7)))
    again = pickle.loads(pickle.dumps(many))
    np.testing.assert_array_equal(again.image(6), picture(6))
    changed = [full(k)._replace(expression="Anger") if k == 5 else full(k) for k in range(7)]
    assert write(tmp_path / "changed", changed).fingerprint != one.fingerprint
    moved = [full(k)._replace(landmarks=full(k).landmarks + 1) if k == 5 else full(k) for k in range(7)]
    assert write(tmp_path / "moved", moved).fingerprint != one.fingerprint


def test_fingerprint_holds_what_decides_labels_and_folds(tmp_path):
    def with_attributes(name, **values):
        return write(tmp_path / name, [full(k)._replace(attributes=values) for k in range(3)]).fingerprint

    plain = with_attributes("plain", camera="a")
    assert with_attributes("other", camera="b") == plain
    assert len({plain, with_attributes("p", polarity="Positive"), with_attributes("n", polarity="Negative")}) == 3
    assert with_attributes("f", fold=1) not in (plain, with_attributes("g", fold=2))


def test_killed_run_continues_without_redoing(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PART_ROWS", 3)
    out = tmp_path / "s"

    def killed():
        yield from (full(k) for k in range(4))
        yield Skipped("x", "corrupt")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(out, killed())
    with pytest.raises(DataError, match="not finished"):
        open_store(out)
    assert finished_ids(out) == {"r0", "r1", "r2", "r3", "x"}
    first = (out / "part-00000.arrow").stat().st_mtime_ns
    asked = [full(k) for k in range(7) if f"r{k}" not in finished_ids(out)]
    store = write(out, asked)
    assert list(store.ids) == [f"r{k}" for k in range(7)]
    assert store.info.skipped == 1
    assert (out / "part-00000.arrow").stat().st_mtime_ns == first
    assert not (out / "progress.json").exists()
    assert not list(out.glob("*.tmp"))
    whole = write(tmp_path / "whole", [full(k) for k in range(7)])
    assert whole.fingerprint == store.fingerprint
    same = write(out, iter(()))  # a finished store is opened, not written again
    assert same.fingerprint == store.fingerprint
    assert finished_ids(out) == {*store.ids, "x"}


def test_damaged_part_of_an_interrupted_run_is_redone_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PART_ROWS", 2)
    out = tmp_path / "s"

    def killed():
        yield from (full(k) for k in range(6))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(out, killed())
    os.truncate(out / "part-00001.arrow", 100)
    assert finished_ids(out) == {"r0", "r1"}
    assert list(write(out, [full(k) for k in range(8)]).ids) == [f"r{k}" for k in range(8)]


def test_disk_full_keeps_finished_parts(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    monkeypatch.setattr(store_module, "PART_ROWS", 2)
    out = tmp_path / "s"

    def records():
        for k in range(6):
            if k == 3:
                (out / "part-00001.arrow.tmp").symlink_to("/dev/full")
            yield full(k)

    with pytest.raises(DataError, match=r"disk is full.*same command again"):
        write(out, records())
    assert not (out / "part-00001.arrow.tmp").is_symlink()
    assert finished_ids(out) == {"r0", "r1"}
    assert len(write(out, [full(k) for k in range(6)])) == 6


def test_bad_stores(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a prepared store"):
        open_store(tmp_path)
    out = tmp_path / "s"
    write(out, [full(0)])
    with pytest.raises(UsageError, match="size 16, now 32"):
        write_store([], out, dataset="toy", size=32)
    info = json.loads((out / "store.json").read_text())
    write_json(out / "store.json", {**info, "version": 9})
    with pytest.raises(DataError, match="version 9"):
        open_store(out)
    del info["parts"]
    (out / "store.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="was changed since it was written"):
        open_store(out)
    write_json(out / "store.json", info)
    with pytest.raises(DataError, match="lacks 'parts'"):
        open_store(out)
    (out / "store.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        open_store(out)


def test_truncated_part(tmp_path):
    out = tmp_path / "s"
    write(out, [full(0)])
    part = out / "part-00000.arrow"
    size = part.stat().st_size
    os.truncate(part, size - 8)
    with pytest.raises(DataError, match="truncated"):
        open_store(out)
    part.write_bytes(b"\0" * size)  # same length, other content
    with pytest.raises(DataError, match="damaged"):
        open_store(out)


def test_bad_records(tmp_path):
    bad = {
        "split": record(0, split="val"),
        "expression": record(0, expression="happy"),
        "votes": record(0, votes=np.zeros(7, np.float32)),
        "pixels": record(0, image=np.zeros((8, 8), np.uint8)),
        "got bytes": record(0, image=b"png"),
    }
    for k, (words, entry) in enumerate(bad.items()):
        with pytest.raises(DataError, match=words):
            write(tmp_path / str(k), [entry])
    with pytest.raises(UsageError, match="channels 2"):
        write(tmp_path / "c", [record(0)], channels=2)
    store = write(tmp_path / "twice", [record(0), record(0)])
    assert len(store) == 1
    assert store.skipped == [Skipped("r0", "id occurs twice")]


def test_no_usable_record_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match=r"no usable picture.*1 were skipped.*corrupt"):
        write(tmp_path / "s", [Skipped("a", "corrupt")])
    assert len(write(tmp_path / "s", [record(0)])) == 1  # the same folder works once the cause is cured
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="no prepared store"):
        write(tmp_path / "other", [record(0)])


def test_difference_hash_twin_and_invariance():
    image = picture(3)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    bits = "".join("1" if small[y, x + 1] > small[y, x] else "0" for y in range(8) for x in range(8))
    assert difference_hash(image) == int(bits, 2)
    brighter = (image * 0.7 + 40).astype(np.uint8)
    assert (difference_hash(image) ^ difference_hash(brighter)).bit_count() <= 4
    assert difference_hash(np.full((SIZE, SIZE), 9, np.uint8)) == 0


def test_action_units_are_read_by_name(tmp_path):
    out = tmp_path / "s"
    write(out, [full(0)])
    info = json.loads((out / "store.json").read_text())
    swapped = [*info["action_units"][::-1]]
    write_json(out / "store.json", {**info, "action_units": swapped})
    store = open_store(out)
    assert store.action_units[0, len(ACTION_UNITS) - 1 - 3] == 2.5


def test_parquet_export(tmp_path):
    store = write(tmp_path / "s", [full(k) for k in range(3)])
    path = export_parquet(store, tmp_path / "sub" / "s.parquet")
    table = pq.read_table(path)
    assert table.column("id").to_pylist() == list(store.ids)
    pixels = cv2.imdecode(np.frombuffer(table.column("image")[2].as_py(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    np.testing.assert_array_equal(pixels, picture(2))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_parquet_of_many_parts_as_a_file_or_a_folder(tmp_path, monkeypatch, capsys, encoding):
    monkeypatch.setattr(store_module, "PART_ROWS", 2)
    store = write(tmp_path / "s", [full(k) for k in range(5)], encoding=encoding)
    assert main(["parquet", str(store.path), "--out", str(tmp_path / "one.parquet")]) == 0
    assert main(["parquet", str(store.path), "--out", str(tmp_path / "many"), "--workers", "1"]) == 0
    (tmp_path / "many" / "part-00009.parquet").write_bytes(b"of a larger store")
    assert parquet(store.path, out=tmp_path / "many", workers=2) == tmp_path / "many"
    files = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert files == [f"part-0000{k}.parquet" for k in range(3)]
    one, many = pq.read_table(tmp_path / "one.parquet"), pq.read_table(tmp_path / "many")
    assert one.schema == many.schema
    for name in one.column_names:
        np.testing.assert_equal(many.column(name).to_pylist(), one.column(name).to_pylist())  # NaN is NaN
    assert one.column("id").to_pylist() == list(store.ids)
    decoded = [cv2.imdecode(np.frombuffer(value.as_py(), np.uint8), cv2.IMREAD_COLOR_RGB) for value in one["image"]]
    np.testing.assert_array_equal(decoded, store.images(range(5)))
    assert main(["parquet", str(store.path), "--out", str(tmp_path / "s")]) == 2  # the store itself
    assert main(["parquet", str(store.path), "--out", str(tmp_path / "x.parquet"), "--cluster", "auto"]) == 2
    assert len(open_store(store.path)) == 5


def test_dropped_landmarks_read_as_unknown_and_are_exported_so(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PART_ROWS", 2)
    write(tmp_path / "s", [full(k) for k in range(5)])
    content = json.loads((tmp_path / "s" / "store.json").read_text())
    write_json(tmp_path / "s" / "store.json", content | {"landmark_limit": 0.3, "landmarks_dropped": [1, 3]})
    store = pickle.loads(pickle.dumps(open_store(tmp_path / "s")))
    assert np.isfinite(store.landmarks).any(axis=(1, 2)).tolist() == [True, False, True, False, True]
    assert store.visible.any(axis=1).tolist() == [True, False, True, False, True]
    table = pq.read_table(export_parquet(store, tmp_path / "s.parquet"))
    exported = np.array(table.column("landmarks").to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(exported.reshape(-1, 68, 2), store.landmarks)
    assert np.array(table.column("visible").to_pylist()).tolist() == store.visible.tolist()


def test_a_store_of_before_the_limit_opens(tmp_path):
    store = write(tmp_path / "s", [full(0)])
    assert "landmark_limit" not in json.loads((tmp_path / "s" / "store.json").read_text())
    assert (store.info.landmark_limit, store.info.landmarks_dropped) == (None, ())


def test_some_rows_are_read_without_the_others(tmp_path, monkeypatch):
    """In any order and twice, across parts, with landmarks that were dropped."""
    monkeypatch.setattr(store_module, "PART_ROWS", 3)
    write(tmp_path / "s", [full(k)._replace(landmarks=full(k).landmarks + k) if k % 3 else record(k) for k in range(8)])
    content = json.loads((tmp_path / "s" / "store.json").read_text())
    write_json(tmp_path / "s" / "store.json", content | {"landmark_limit": 0.2, "landmarks_dropped": [4]})
    store, rows = open_store(tmp_path / "s"), np.array([7, 0, 4, 5, 7])
    assert len(store.info.parts) == 3
    np.testing.assert_array_equal(store.landmarks_of(rows), store.landmarks[rows])
    np.testing.assert_array_equal(store.known_points(rows), np.isfinite(store.landmarks[rows]).all(2))
    np.testing.assert_array_equal(store.known_points(), np.isfinite(store.landmarks).all(2))
    assert store.attributes_of(rows) == [store.attributes[row] for row in rows]
    assert store.landmarks_of(rows[:0]).shape == (0, 68, 2)
    assert store.attributes_of(rows[:0]) == []
    assert list(store.expression[:3]) == [None, "Fear", "Fear"]
    assert store.expression[1] is store.expression[7]
