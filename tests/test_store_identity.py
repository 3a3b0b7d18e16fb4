"""A store is what was written, of one source: damage, changed labels and second data sets are told, never scored or mixed."""

import json
import random
import re
import shutil

import cv2
import numpy as np
import pytest
import tiny

from mien.data import store as store_module
from mien.data.arrow import map_part
from mien.data.fingerprint import fingerprint
from mien.data.store import open_store
from mien.data.verify import verify
from mien.datasets.check import check
from mien.datasets.prepare import prepare
from mien.errors import DataError, MienError, UsageError
from mien.files import write_json
from mien.training.loop import fit


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A small one of two parts."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "PART_ROWS", 16)
        tiny.store(place / "s", each=2)
    return place / "s"


def copied(store, place):
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(store, place)


def flip(path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def told(place) -> str | None:
    """Why a store does not open; None where it does."""
    try:
        open_store(place)
    except MienError as error:
        return str(error)
    return None


def damage(store, place, draws: random.Random) -> str:
    """A copy with one to four bits flipped, or a file cut, lengthened, emptied, exchanged or removed; what was done."""
    copied(store, place)
    files = sorted(path for path in place.iterdir() if path.name != ".verified.json")
    path, how = draws.choice(files), draws.choice(["flip"] * 6 + ["cut", "longer", "empty", "exchanged", "removed"])
    size = path.stat().st_size
    if how == "flip":
        for bit in draws.sample(range(8 * size), draws.randint(1, 4)):  # no bit twice, which would mend it
            flip(path, bit // 8, bit % 8)
    elif how == "exchanged":
        path.write_bytes(draws.choice([other for other in files if other != path]).read_bytes())
    elif how == "removed":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes({"cut": data[: draws.randrange(size)], "longer": data + b"x", "empty": b""}[how])
    return f"{how} {path.name}"


def fuzz(store, folder, count: int, seed: int) -> None:
    draws = random.Random(seed)
    for _ in range(count):
        done = damage(store, folder / "damaged", draws)
        line = told(folder / "damaged")
        assert line is not None, done
        assert "\n" not in line, done
        assert len(line) < 600, done


def test_no_damaged_store_opens(store, tmp_path):
    assert told(copied(store, tmp_path / "copy")) is None
    fuzz(store, tmp_path, 60, seed=1)


@pytest.mark.slow
def test_none_of_many_damaged_stores_opens(store, tmp_path):
    fuzz(store, tmp_path, 1000, seed=2)


def test_a_flipped_pixel_is_found_before_a_training_begins(store, tmp_path):
    place = copied(store, tmp_path / "s")
    open_store(place)
    part = open_store(place).info.parts[1]
    flip(place / part["file"], (part["pixels"][0] + part["pixels"][1]) // 2)
    for _ in range(2):  # a refusal is not remembered as a success
        with pytest.raises(DataError, match=r"part-00001\.arrow.*was changed or is damaged \(SHA-256\)"):
            fit(tiny.recipe(place, optim={"epochs": 1}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_are_read_once(store, tmp_path, monkeypatch):
    place, read = copied(store, tmp_path / "s"), []
    monkeypatch.setattr("mien.data.verify.file_sha256", lambda path: read.append(path.name) or digest(path))
    from mien.files import file_sha256 as digest

    for _ in range(3):
        open_store(place)
    assert [name for name in read if name != "skipped.csv"] == ["part-00000.arrow", "part-00001.arrow"]
    assert told(tiny.store(tmp_path / "own", each=1).path) is None
    assert read.count("skipped.csv") == len(read) - 2  # the process that wrote it knows


def test_labels_that_were_permuted_are_found_whatever_the_digests_say(store, tmp_path):
    place = copied(store, tmp_path / "s")
    other = tiny.records(each=2, seed=5)
    tiny.store(tmp_path / "other", each=2, seed=5)
    shutil.copy(tmp_path / "other" / "part-00000.arrow", place / "part-00000.arrow")
    info = json.loads((tmp_path / "other" / "store.json").read_text())
    own = json.loads((place / "store.json").read_text())
    write_json(place / "store.json", {**info, "fingerprint": own["fingerprint"]})
    assert len(other) == info["rows"]
    with pytest.raises(DataError, match="fingerprint"):
        verify(place, open_store(place).info, deep=True)
    with pytest.raises(DataError, match="fingerprint"):
        check(place, verify=True)


def test_another_list_of_skipped_files_is_told(store, tmp_path):
    place = copied(store, tmp_path / "s")
    (place / "skipped.csv").write_text("id,reason\na.png,no face\n")
    assert re.search(r"skipped\.csv' was changed or is damaged", told(place))
    info = json.loads((place / "store.json").read_text())
    write_json(place / "store.json", {name: value for name, value in info.items() if name != "skipped_sha256"})
    before = open_store(place)  # from before the digest was kept
    with pytest.raises(DataError, match=r"lists 1 files, store\.json 0"):
        print(before.skipped)
    (place / "skipped.csv").unlink()
    with pytest.raises(DataError, match="is missing or damaged"):
        print(before.skipped)


def test_check_verify_says_so(store, capsys):
    check(store, verify=True)
    assert "verified: 28 faces in 2 files are what was written" in capsys.readouterr().out


def test_a_store_without_digests_opens_by_its_fingerprint(store, tmp_path):
    place = copied(store, tmp_path / "s")
    content = json.loads((place / "store.json").read_text())
    parts = [{key: part[key] for key in ("file", "rows", "bytes")} for part in content["parts"]]
    del content["sha256"]
    (place / "store.json").write_text(json.dumps({**content, "version": 1, "parts": parts}))
    assert open_store(place).fingerprint == open_store(store).fingerprint
    assert fingerprint(map_part(place / part["file"]) for part in parts) == open_store(store).fingerprint
    flip(place / "part-00001.arrow", (place / "part-00001.arrow").stat().st_size // 2)
    with pytest.raises(DataError, match="was changed"):
        open_store(place)


@pytest.mark.parametrize("change", [
    {"size": "32"}, {"size": -1}, {"channels": 2}, {"encoding": "pickle"}, {"parts": {}}, {"rows": 3}, {"rows": True},
    {"parts": [{"file": "../part-00000.arrow", "rows": 1, "bytes": 1}]}, {"parts": [1]}, {"landmarks_dropped": [99]},
    {"notes": []}, {"notes": {"a": 1}}, {"action_units": "AU1"}, {"fingerprint": 1}, {"landmark_limit": "x"},
])  # fmt: skip
def test_values_that_cannot_be_in_a_description(store, tmp_path, change):
    place = copied(store, tmp_path / "s")
    write_json(place / "store.json", json.loads((place / "store.json").read_text()) | change)
    with pytest.raises(DataError, match=r"is damaged \("):
        open_store(place)


def faces(root, names, seed=0):
    draws = np.random.default_rng(seed)
    for name in names:
        (root / "happy").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "happy" / f"{name}.bmp"), draws.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    return root


def made(root, out, **options):
    return prepare("folder", root=root, out=out, size=16, workers=0, **options)


def test_a_second_data_set_is_neither_ignored_nor_mixed_in(tmp_path):
    first, second = faces(tmp_path / "x" / "data", "ab"), faces(tmp_path / "y" / "data", "ab", seed=1)
    before = made(first, tmp_path / "s").fingerprint
    assert made(first, tmp_path / "s").fingerprint == before
    for options in ({}, {"add": True}):
        with pytest.raises(UsageError, match=r"holds faces of another place named 'data'.*--replace"):
            made(second, tmp_path / "s", **options)
    assert open_store(tmp_path / "s").fingerprint == before
    assert made(second, tmp_path / "s", replace=True).fingerprint != before


def test_an_interrupted_store_takes_no_second_data_set(tmp_path, monkeypatch):
    first, second = faces(tmp_path / "one", "abcd"), faces(tmp_path / "two", "ef")
    monkeypatch.setattr(store_module, "PART_ROWS", 2)
    from mien.data.writer import Writer

    whole = Writer.finish
    monkeypatch.setattr(Writer, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        made(first, tmp_path / "s")
    monkeypatch.setattr(Writer, "finish", whole)
    with pytest.raises(UsageError, match="holds faces of another place named 'one'"):
        made(second, tmp_path / "s")
    assert len(made(first, tmp_path / "s")) == 4


def test_pictures_that_came_later_are_told_and_added(tmp_path, monkeypatch):
    root = faces(tmp_path / "data", "ab")
    (root / "happy" / "broken.png").write_bytes(b"")
    assert len(made(root, tmp_path / "s")) == 2
    faces(root, "cd", seed=1)
    cv2.imwrite(str(root / "happy" / "broken.png"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(
        UsageError, match=r"was made of 3 files; those under 'data' have changed since \(5 now\): --add"
    ):
        made(root, tmp_path / "s")
    from mien.data.writer import Writer

    whole = Writer.finish
    monkeypatch.setattr(Writer, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        made(root, tmp_path / "s", add=True)
    monkeypatch.setattr(Writer, "finish", whole)
    assert len(open_store(tmp_path / "s")) == 2  # readable until the new one is whole
    store = made(root, tmp_path / "s", add=True)
    assert (len(store), store.info.skipped) == (5, 0)
    assert len(made(root, tmp_path / "s")) == 5
    assert set(store.ids) == set(made(root, tmp_path / "whole").ids)


def test_labels_that_changed_in_a_table_are_told(tmp_path):
    root = faces(tmp_path / "data", "ab")
    table = tmp_path / "labels.csv"
    lines = [f"{root}/happy/{name}.bmp,{{}}" for name in "ab"]
    for words in ("Anger", "Happy"):
        table.write_text("image,expression\n" + "\n".join(line.format(words) for line in lines) + "\n")
        if words == "Anger":
            prepare("table", root=table, out=tmp_path / "s", size=16, workers=0)
    with pytest.raises(UsageError, match="have changed since"):
        prepare("table", root=table, out=tmp_path / "s", size=16, workers=0)


def test_replace_and_add_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="give one of both"):
        made(faces(tmp_path / "data", "a"), tmp_path / "s", add=True, replace=True)
