"""Maps and crops of a store as files for other tools: one a face, resumed, in flat memory."""

import csv
import tracemalloc

import cv2
import numpy as np
import pytest
import tiny

from mien.cli import main
from mien.cues import folder as cue_folder
from mien.data.store import open_store
from mien.errors import UsageError
from mien.schema import EXPRESSIONS


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    records = tiny.records(1)
    records[2] = records[2]._replace(landmarks=None)
    from mien.data.store import write_store

    return write_store(records, tmp_path_factory.mktemp("cues") / "store", dataset="toy", size=tiny.SIZE)


def run(faces, out, *words):
    return main(["cues", str(faces.path), "--out", str(out), "--size", "16", *words])


def index(out):
    with open(out / "index.csv", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def archive(faces, out, *words):
    assert run(faces, out / "all.npz", *words) == 0
    with np.load(out / "all.npz") as content:
        return content["maps"], content["valid"]


@pytest.mark.parametrize("words", [(), ("--cue", "au_generic"), ("--cue", "landmarks"), ("--control", "mean")])
def test_files_are_the_maps_of_the_archive(faces, tmp_path, words):
    maps, valid = archive(faces, tmp_path, *words)
    assert run(faces, tmp_path / "f", *words) == 0
    rows = index(tmp_path / "f")
    assert list(rows) == faces.ids.tolist()
    for k, name in enumerate(faces.ids):
        assert rows[name]["valid"] == str(int(valid[k]))
        if valid[k]:
            np.testing.assert_allclose(np.load(tmp_path / "f" / rows[name]["file"]), maps[k], atol=1e-6)
        else:
            assert rows[name]["file"] == ""
    assert not valid[2] or "mean" in words


def test_a_map_of_every_expression(faces, tmp_path):
    assert run(faces, tmp_path / "f", "--per-class") == 0
    for k, name in enumerate(EXPRESSIONS):
        maps, valid = (
            archive(faces, tmp_path / name, "--expression", name) if name not in ("Neutral",) else (None, None)
        )
        found = np.load(tmp_path / "f" / f"{faces.ids[0]}.npy")
        assert found.shape == (len(EXPRESSIONS), 16, 16)
        if maps is None:
            assert not found[k].any()
        else:
            np.testing.assert_allclose(found[k], maps[0] * valid[0], atol=1e-6)


def test_pictures_of_8_bits_and_crops(faces, tmp_path):
    maps, valid = archive(faces, tmp_path)
    assert run(faces, tmp_path / "f", "--files", "png", "--crops") == 0
    k = int(np.flatnonzero(valid)[0])
    name = faces.ids[k]
    assert np.abs(cv2.imread(str(tmp_path / f"f/{name}.png"), -1) / 255 - maps[k]).max() < 0.003
    for row, name in enumerate(faces.ids):
        crop = cv2.imread(str(tmp_path / f"f/pictures/{name}.png"))
        np.testing.assert_array_equal(crop[..., ::-1], faces.image(row))


def test_an_interrupted_folder_goes_on(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cue_folder, "CHUNK", 4)
    assert run(faces, tmp_path / "whole", "--control", "other_class") == 0
    assert run(faces, tmp_path / "f", "--control", "other_class") == 0
    some = sorted((tmp_path / "f").glob("*.npy"))
    for path in some[::3]:
        path.unlink()
    capsys.readouterr()
    assert run(faces, tmp_path / "f", "--control", "other_class") == 0
    for path in some:
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    capsys.readouterr()
    assert run(faces, tmp_path / "f", "--control", "other_class") == 0
    assert ", 0 written now" in capsys.readouterr().out
    assert run(faces, tmp_path / "f") == 2
    assert "another" in capsys.readouterr().err


def test_what_a_killed_command_wrote_is_kept(faces, tmp_path, capsys):
    """It leaves no index behind: only maps that are missing are written."""
    assert run(faces, tmp_path / "f") == 0
    (tmp_path / "f/index.csv").rename(tmp_path / "whole.csv")
    some = sorted((tmp_path / "f").glob("*.npy"))
    some[0].unlink()
    kept = {path: path.stat().st_mtime_ns for path in some[1:]}
    capsys.readouterr()
    assert run(faces, tmp_path / "f") == 0
    assert ", 1 written now" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (tmp_path / "f/index.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_memory_does_not_grow(faces, tmp_path, monkeypatch):
    """The largest piece of memory is a chunk of maps, not all of them."""
    monkeypatch.setattr(cue_folder, "CHUNK", 2)
    tracemalloc.start()
    assert main(["cues", str(faces.path), "--out", str(tmp_path / "f"), "--size", "512"]) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14 * 512 * 512 * 4


def test_what_does_not_go_together(faces, tmp_path):
    from mien.cues.verb import cues

    with pytest.raises(UsageError, match="shuffled"):
        cues(faces.path, out=tmp_path / "f", control="shuffled")
    with pytest.raises(UsageError, match="--out FOLDER"):
        cues(faces.path, out=tmp_path / "f.npz", per_class=True)
    assert len(open_store(faces.path)) == 14


def test_an_archive_that_would_fill_the_memory_is_refused_with_what_to_give(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mien.cues.verb.MOST_BYTES", 4 * len(faces) * 12**2)
    assert run(faces, tmp_path / "all.npz") == 2
    said = capsys.readouterr().err
    assert "--out FOLDER" in said
    assert "--size 12 or less" in said
    assert not (tmp_path / "all.npz").exists()
    assert run(faces, tmp_path / "all.npz", "--size", "12") == 0
    assert run(faces, tmp_path / "folder") == 0
    np.savez(tmp_path / "points.npz", landmarks=np.zeros((len(faces), 68, 2), np.float32))
    words = [
        "cues",
        str(tmp_path / "points.npz"),
        "--cue",
        "landmarks",
        "--size",
        "16",
        "--out",
        str(tmp_path / "p.npz"),
    ]
    assert main(words) == 2
    assert "fewer faces" in capsys.readouterr().err
