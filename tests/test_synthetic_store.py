"""`mien prepare synthetic`: synthetic faces read back and prepared anew, with all that is known about them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from mien.cli import main
from mien.data.store import open_store
from mien.datasets import DATASETS
from mien.errors import DataError
from mien.faces.align import similarity, template
from mien.faces.landmarks import five_points
from mien.schema import Record
from mien.synthetic.synthesize import synthesize

ROOT = Path(__file__).parent.parent
COUNT, SIZE = 14, 48


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_store(
        synthesize(out=tmp_path_factory.mktemp("faces") / "s", faces=COUNT, size=SIZE, subjects=2, workers=1)
    )


def test_records_say_what_the_store_says(source):
    records = list(DATASETS["synthetic"].records(source.path))
    assert [record.id for record in records] == list(source.ids)
    for i, record in enumerate(records):
        assert isinstance(record, Record)
        assert np.array_equal(record.image, source.image(i))
        assert (record.split, record.subject, record.expression) == (
            source.split[i], source.subject[i], source.expression[i],
        )  # fmt: skip
        assert record.votes is None
        for own, kept in ((record.action_units, source.action_units), (record.landmarks, source.landmarks)):
            assert np.array_equal(own, kept[i])
        assert np.array_equal(record.pose, source.pose[i])
        assert np.array_equal(record.visible, source.visible[i])
        assert dict(record.attributes) == source.attributes[i]


def test_the_same_size_is_the_same_store(source, tmp_path):
    assert (
        main(["prepare", "synthetic", "--root", str(source.path), "--out", str(tmp_path / "t"), "--size", str(SIZE)])
        == 0
    )
    copy = open_store(tmp_path / "t")
    assert copy.fingerprint == source.fingerprint
    assert copy.info.notes["source"] == source.fingerprint
    assert copy.info.notes["licence"] == source.info.notes["licence"]


def test_aligned_and_smaller(source, tmp_path):
    words = [
        "prepare",
        "synthetic",
        "--root",
        str(source.path),
        "--out",
        str(tmp_path / "small"),
        "--size",
        "32",
        "--align",
    ]
    assert main(words) == 0
    small = open_store(tmp_path / "small")
    assert (small.info.size, len(small)) == (32, COUNT)
    assert {row["crop"] for row in small.attributes} == {"aligned"}
    assert np.array_equal(small.visible, source.visible)
    assert np.array_equal(small.action_units, source.action_units)
    assert list(small.split) == list(source.split)
    assert list(small.subject) == list(source.subject)
    for i in range(COUNT):
        five = five_points(source.landmarks[i])
        matrix = similarity(five, template(32))
        assert np.allclose(small.landmarks[i], source.landmarks[i] @ matrix[:, :2].T + matrix[:, 2], atol=1e-3)


def test_other_stores_and_folders_are_refused(tmp_path):
    tiny.store(tmp_path / "toy", each=1)
    with pytest.raises(DataError, match="not of synthetic faces"):
        next(DATASETS["synthetic"].records(tmp_path / "toy"))
    with pytest.raises(DataError, match="does not exist"):
        next(DATASETS["synthetic"].records(tmp_path / "gone"))


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "mien", "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("mien ")
