"""`--cluster`: everything once and in order, whoever ends on the way; a store that many wrote is the store that one writes."""

import csv
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import predict_parts as parts
import pytest
import tiny
from cluster_stand_in import StandIn

from mien.cli import main
from mien.data import cluster
from mien.data.duplicates import KEPT
from mien.data.shards import Coding, Part, made, once, part_rows
from mien.data.store import Skipped, finished_ids, open_store, write_store
from mien.data.verify import verify
from mien.datasets.check import check
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.predict import predict
from mien.schema import Record
from mien.training.loop import fit

SIZE = 16


@pytest.fixture
def stand_in(monkeypatch):
    """Use a stand-in for every cluster; returns how to make it."""

    def use(**options):
        one = StandIn(**options)
        monkeypatch.setattr(cluster, "executor", lambda address: one)
        return one

    return use


def square(number: int) -> int:
    return number * number


def refuse_seven(number: int) -> int:
    if number == 7:
        raise DataError("seven is none.")
    return number


@pytest.mark.parametrize("lose", [(), (0,), (1, 2, 3), (5, 11, 30, 31, 32)])
def test_each_result_once_and_in_order_whoever_ends(stand_in, capsys, lose):
    stand_in(lose=lose)
    found = list(cluster.ordered_map(square, range(50), chunk=2, cluster="auto"))
    assert found == [number * number for number in range(50)]
    assert ("a worker of the cluster ended" in capsys.readouterr().err) == bool(lose)


def test_items_are_drawn_a_few_groups_ahead_however_slow_the_reader(stand_in):
    one, drawn = stand_in(slots=3), []
    found = cluster.ordered_map(square, (drawn.append(n) or n for n in range(400)), chunk=2, cluster="auto")
    for number in range(200):
        assert next(found) == number * number
        assert len(drawn) <= number + 2 * (2 * 3 + 2)
    assert one.most <= 2 * 3 + 1
    found.close()


def test_items_at_which_every_worker_ends_are_named(stand_in):
    stand_in(always="17")
    found = cluster.ordered_map(square, range(50), chunk=1, cluster="auto")
    assert list(itertools.islice(found, 17)) == [number * number for number in range(17)]
    with pytest.raises(DataError, match=r"^a worker of the cluster ended 4 times at '17', [^\n]*\.$"):
        next(found)


def test_errors_of_a_worker_come_as_they_were_raised_and_after_what_stood_before(stand_in):
    stand_in()
    found = cluster.ordered_map(refuse_seven, range(50), chunk=1, cluster="auto")
    assert list(itertools.islice(found, 7)) == list(range(7))
    with pytest.raises(DataError, match=r"^seven is none\.$"):
        next(found)


@pytest.mark.parametrize(
    ("place", "told"),
    [(("0.0.0", os.getcwd()), "has Mien .*, this is 0.0.0: install"), ((None, "/nowhere"), "cannot enter '/nowhere'")],
)
def test_a_worker_that_cannot_stand_in_says_why(place, told):
    own = cluster.Place(place[0] or cluster.__version__, place[1])
    answer, error = cluster._Job(square, own)([1, 2])
    assert answer == []
    assert isinstance(error, DataError)
    assert re.search(told, str(error))


def test_no_ray_and_no_address_are_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.executor.cache_clear()
    with pytest.raises(UsageError, match=r"pip install 'mien\[cluster\]'"):
        cluster.executor("auto")
    for address in ("host", "ray://host:1", "host:port", ":7", ""):
        with pytest.raises(UsageError, match="must be auto, or HOST:PORT"):
            cluster.executor(address)
    assert main(["synthesize", "--out", str(tmp_path / "s"), "--faces", "3", "--size", "32", "--cluster", "auto"]) == 2
    assert "mien[cluster]" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def face(number: int) -> Record | Skipped:
    if number % 7 == 3:
        return Skipped(f"r{number}", "corrupt")
    noise = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Record(
        id=f"r{number}", image=cv2.GaussianBlur(noise, (5, 5), 2), expression="Fear", subject=str(number // 5)
    )


def spoiled(number: int) -> Record | Skipped:
    if number == 150:
        raise DataError("the disk is full.")
    return face(number)


def numbers(skip: set[str] = frozenset()) -> list[int]:
    return [number for number in range(200) if f"r{number}" not in skip]


def store_of(folder: Path, address: str | None, function=face, items=None):
    items, coding = numbers() if items is None else items, Coding(SIZE, 3, "jpeg")
    faces = made(function, items, folder, coding, workers=1, cluster=address, total=len(items))
    return write_store(faces, folder, dataset="toy", size=SIZE, encoding="jpeg")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("alone") / "s", None)


def assert_same(store, other) -> None:
    """Same faces byte for byte, same skipped ones, nothing left over in the folder."""
    assert store.fingerprint == other.fingerprint
    assert list(store.ids) == list(other.ids)
    assert store.skipped == other.skipped
    assert all(bytes(store._bytes(k)) == bytes(other._bytes(k)) for k in range(len(store)))
    files = {part["file"] for part in store.info.parts}
    assert {path.name for path in store.path.iterdir()} == files | {"store.json", "skipped.csv", ".verified.json"}
    verify(store.path, store.info, deep=True)


@pytest.mark.parametrize("lose", [(), (0, 1), (2, 3, 4)])
def test_a_store_by_many_is_the_store_by_one(stand_in, alone, tmp_path, lose):
    stand_in(lose=lose)
    store = store_of(tmp_path / "s", "auto")
    assert [part["file"] for part in store.info.parts] == [f"part-0000{k}.arrow" for k in range(4)]
    assert_same(store, alone)
    shuffled = np.random.default_rng(0).permutation(len(store))
    np.testing.assert_array_equal(store.images(shuffled), alone.images(shuffled))  # shards are read as one


def test_what_was_interrupted_on_a_cluster_goes_on_on_one_machine_and_the_other_way(stand_in, alone, tmp_path):
    for first, then in (("auto", None), (None, "auto"), ("auto", "auto")):
        stand_in()
        out = tmp_path / f"{first}-{then}"
        with pytest.raises(DataError, match="disk is full"):
            store_of(out, first, spoiled)
        done = finished_ids(out)
        assert len(done) >= 64
        assert_same(store_of(out, then, items=numbers(done)), alone)


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path, stand_in):
    stand_in()
    faces = made(face, numbers(), tmp_path / "elsewhere", Coding(SIZE, 3, "raw"), workers=1, cluster="auto", total=200)
    with pytest.raises(DataError, match="put --out on a file system that every node shares"):
        write_store(faces, tmp_path / "s", dataset="toy", size=SIZE)
    assert not (tmp_path / "s").exists()


def test_parts_have_places_only_when_their_entry_is_here(stand_in, tmp_path):
    """A worker that was believed dead and writes on leaves a file that no store knows, and that the end sweeps away."""
    stand_in()
    out = tmp_path / "s"
    faces = made(face, numbers(), out, Coding(SIZE, 3, "jpeg"), workers=1, cluster="auto", total=200)

    def with_a_late_one():
        for part in faces:
            assert isinstance(part, Part)
            (out / ".shard-node-1-late.arrow").write_bytes(b"half")
            (out / "part-00009.arrow").write_bytes(b"of an earlier run")
            yield part

    store = write_store(with_a_late_one(), out, dataset="toy", size=SIZE, encoding="jpeg")
    assert len(list(out.glob("*shard*"))) == 0
    assert len(list(out.glob("part-*"))) == len(store.info.parts)


def test_an_id_that_comes_twice_is_told_before_any_work():
    items = [Record("a", None), Skipped("b", "no"), Record("a", None), Record("b", None)]
    assert list(once(items)) == [*items[:2], Skipped("a", "id occurs twice"), Skipped("b", "id occurs twice")]


def test_rows_of_a_part():
    small, large = Coding(48, 1, "raw"), Coding(1024, 3, "raw")
    assert part_rows(small, None, 2) == part_rows(small, 10**7, 100) == 2048
    assert part_rows(small, 1050, 2) == 132  # 4 parts a worker
    assert part_rows(small, 10, 8) == part_rows(small, 0, 8) == 64
    assert part_rows(large, 10**7, 100) == 42  # 128 MiB


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number in range(90):
        folder = root / "train" / ("happy" if number % 2 else "sad")
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        cv2.imwrite(str(folder / f"{number:03d}.png"), rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    (root / "train" / "sad" / "044.png").write_bytes(b"\x89PNG broken")
    return root


def prepare(root: Path, out: Path, *more: str) -> int:
    return main(
        ["prepare", "folder", "--root", str(root), "--out", str(out), "--size", "16", "--encoding", "jpeg", *more]
    )


def test_prepare_on_a_cluster_is_prepare(stand_in, pictures, tmp_path, monkeypatch, capsys):
    stand_in(lose=(1,))
    assert prepare(pictures, tmp_path / "one", "--workers", "1") == 0
    monkeypatch.chdir(tmp_path)
    assert prepare(Path(os.path.relpath(pictures)), Path("many"), "--cluster", "auto") == 0
    one, many = open_store(tmp_path / "one"), open_store(tmp_path / "many")
    assert_same(many, one)
    assert len(many.info.parts) == 2
    assert [skipped.id for skipped in many.skipped] == ["train/sad/044.png"]
    capsys.readouterr()
    assert prepare(pictures, tmp_path / "many", "--cluster", "auto") == 0  # nothing left to do
    assert len(open_store(tmp_path / "many").info.parts) == 2


def test_add_and_replace_on_a_cluster(stand_in, pictures, tmp_path, capsys):
    stand_in()
    root, out = tmp_path / "pictures", tmp_path / "s"
    shutil.copytree(pictures, root)
    assert prepare(root, out, "--cluster", "auto") == 0
    shutil.copy(root / "train" / "happy" / "001.png", root / "train" / "sad" / "044.png")
    shutil.copy(root / "train" / "happy" / "001.png", root / "train" / "sad" / "999.png")
    assert prepare(root, out, "--cluster", "auto", "--add") == 0
    added = open_store(out)
    assert len(added) == 91
    assert added.skipped == []
    ids = set(added.ids)
    (out / KEPT).write_bytes(b"what mien check keeps")
    assert prepare(root, out, "--cluster", "auto", "--replace") == 0
    replaced = open_store(out)
    assert set(replaced.ids) == ids
    assert prepare(root, tmp_path / "one", "--workers", "1") == 0
    assert replaced.fingerprint == open_store(tmp_path / "one").fingerprint


def test_synthesize_on_a_cluster_is_synthesize(stand_in, tmp_path):
    stand_in()
    words = ["synthesize", "--faces", "8", "--size", "32"]
    assert main([*words, "--out", str(tmp_path / "many"), "--cluster", "auto"]) == 0
    assert main([*words, "--out", str(tmp_path / "one"), "--workers", "1"]) == 0
    assert_same(open_store(tmp_path / "many"), open_store(tmp_path / "one"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, guidance={"weight": 1.0}, optim={"epochs": 1}), out)
    return out


def test_evaluate_on_a_cluster_is_evaluate(stand_in, run):
    kept = ("accuracy", "classification", "alignment", "calibration")
    one = evaluate(run, batch=16, methods="cam")
    arrays = dict(np.load(run / "maps" / "faces.npz"))
    stand_in(lose=(1,))
    many = evaluate(run, batch=16, methods="cam", cluster="auto")
    assert {key: many.get(key) for key in kept} == {key: one.get(key) for key in kept}
    for name, values in np.load(run / "maps" / "faces.npz").items():
        np.testing.assert_array_equal(values, arrays[name], err_msg=name)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr("mien.predict.finders.open_provider", lambda name, model=None: parts.find)
    monkeypatch.setattr("mien.predict.shared.GROUP", 2)
    here = tmp_path / "photos"
    here.mkdir()
    for number in range(5):
        parts.save(here / f"{number}.png", parts.picture((5, 5), seed=number))
    (here / "3.png").write_bytes(b"no picture")
    parts.write_video(here / "film.avi", [parts.frame((20 + 2 * k, 20)) for k in range(6)])
    return here


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_predict_on_a_cluster_is_predict(stand_in, run, photos, tmp_path):
    options = {"run": run, "explain": "none", "smooth": 0.2}
    one = predict(photos, **options, out=tmp_path / "one.csv")
    stand_in(lose=(0, 2))
    assert predict(photos, **options, out=tmp_path / "many.csv", cluster="auto") == one
    first, second = rows_of(tmp_path / "one.csv"), rows_of(tmp_path / "many.csv")
    assert len(first) == len(second) == 11
    for a, b in zip(first, second, strict=True):
        for name in a:
            try:
                assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-4), name
            except ValueError:
                assert a[name] == b[name], name
    assert [row["reason"] for row in second if row["reason"]] == ["a text file, not a picture"]


@pytest.mark.parametrize(("more", "told"), [({"overlay": Path("o")}, "--overlay"), ({}, "a camera or stream")])
def test_what_one_machine_alone_can_do_is_refused(run, more, told):
    with pytest.raises(UsageError, match=told):
        predict(Path("a.png" if more else "rtsp://camera"), run=run, cluster="auto", **more)


def test_check_on_a_cluster_is_check(stand_in, tmp_path, monkeypatch):
    store = shutil.copytree(tiny.store(tmp_path / "s").path, tmp_path / "copy")
    monkeypatch.setattr("mien.data.duplicates.PICTURES", 20)
    one = check(tmp_path / "s", verify=True)
    stand_in(lose=(0,))
    assert check(store, verify=True, cluster="auto") == one
    part = store / "part-00000.arrow"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(DataError, match=r"part-00000\.arrow.* was changed or is damaged"):
        check(store, verify=True, cluster="auto")


def killed_once(mark: Path, number: int) -> Record | Skipped:
    if number == 70 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return face(number)


RAY = """
import functools, sys
from pathlib import Path
from mien import progress
from mien.data import cluster
progress.default_workers = lambda: 2
import test_cluster
out = Path(sys.argv[1])
print(cluster.slots("auto"), test_cluster.store_of(out, "auto", functools.partial(test_cluster.killed_once, out.parent / "mark")))
"""


@pytest.mark.slow
def test_a_worker_of_ray_is_killed_and_the_store_is_the_same(alone, tmp_path):
    pytest.importorskip("ray")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(tmp_path / "s")], capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "RAY_ADDRESS": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 Store(")  # nothing of Ray's
    assert (tmp_path / "mark").exists()
    assert "a worker of the cluster ended" in done.stderr
    assert_same(open_store(tmp_path / "s"), alone)
