"""Copies that were mirrored, turned, cropped, brightened or coded again are found; different people of one studio are not."""

from itertools import product

import cv2
import numpy as np
import pytest

from mien.data import near
from mien.data.duplicates import KEPT, NEAR_BITS, NEAR_CORRELATION, near_pairs
from mien.data.folds import strict
from mien.data.store import open_store, write_store
from mien.schema import Record
from mien.synthetic.sample import faces

SIZE = 48


def copy_of(kind: str, picture: np.ndarray) -> np.ndarray:
    high, wide = picture.shape[:2]

    def cut(left, top, right, bottom):
        part = picture[round(top * high) : high - round(bottom * high), round(left * wide) : wide - round(right * wide)]
        return cv2.resize(part, (wide, high), interpolation=cv2.INTER_LINEAR)

    def turn(angle):
        matrix = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), angle, 1)
        return cv2.warpAffine(picture, matrix, (wide, high), borderMode=cv2.BORDER_REPLICATE)

    if kind == "flip":
        return np.ascontiguousarray(picture[:, ::-1])
    if kind.startswith("turn"):
        return turn(float(kind[4:]))
    if kind == "flip and turn 8":
        return np.ascontiguousarray(turn(8)[:, ::-1])
    if kind.startswith("crop"):
        return cut(*[float(kind[4:])] * 4)
    if kind == "corner":
        return cut(0.05, 0.05, 0, 0)
    if kind == "brighter":
        return np.clip(picture * 1.15 + 8.0, 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_UNCHANGED)


KINDS = [
    "flip",
    "turn5",
    "turn-7",
    "turn10",
    "turn12",
    "flip and turn 8",
    "crop0.025",
    "crop0.05",
    "corner",
    "brighter",
    "jpeg",
]


@pytest.fixture(scope="module")
def people():
    """A studio: one face each of 80 people, the same light, pose and expression for all."""
    return [face.image for face in faces(160, size=SIZE, subjects=80, seed=3)][:80]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_found_whichever_side_is_the_copy(people, kind, tmp_path):
    """Ten copies in the test part, ten originals in it whose copies train: at least 19 of 20, and nobody else."""
    rows = [Record(f"p{k}", picture, "train", None, "Happiness") for k, picture in enumerate(people[20:])]
    for k, picture in enumerate(people[:20]):
        copied = copy_of(kind, picture)
        first, second = (picture, copied) if k % 2 else (copied, picture)
        rows += [Record(f"a{k}", first, "train", None, "Fear"), Record(f"b{k}", second, "test", None, "Fear")]
    store = write_store(rows, tmp_path / "s", dataset="toy", size=SIZE, channels=3)
    names = {tuple(sorted((str(store.ids[a]), str(store.ids[b])))) for a, b in near_pairs(store)}
    expected = {(f"a{k}", f"b{k}") for k in range(20)}
    assert len(names & expected) >= 19, f"found {len(names & expected)} of 20"
    assert len(names - expected) == 0


def test_close_pairs_twin():
    rng = np.random.default_rng(1)
    base = rng.integers(0, 1 << 63, 50, dtype=np.uint64)
    queries = base[rng.integers(0, 50, 70)]
    for k in range(70):
        queries[k] ^= np.uint64(sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 9), replace=False)))
    for bits in (0, 3, 6):
        expected = {
            (i, j) for i, j in product(range(70), range(50)) if (int(queries[i]) ^ int(base[j])).bit_count() <= bits
        }
        found = [tuple(pair) for pair in near.close_pairs(queries, base, bits).tolist()]
        assert len(found) == len(set(found))
        assert set(found) == expected
    with pytest.raises(ValueError, match="0-6"):
        near.close_pairs(queries, base, 9)
    assert near.close_pairs(np.empty(0, np.uint64), base, 6).shape == (0, 2)


def test_a_variant_is_the_mirrored_shrunk_and_turned_picture():
    """The matrix against OpenCV, on a smooth picture; middle of the variant only, where no border is repeated."""
    picture = cv2.GaussianBlur(np.random.default_rng(2).random((near.SIDE, near.SIDE)).astype(np.float32), (0, 0), 2)
    for variant in near.variants():
        own = (near.cells(variant, 24, 24, fine=1) @ picture.ravel()).reshape(24, 24)
        grid = (np.arange(24) + 0.5) / 24 - 0.5
        points = near.place(np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2), variant)
        x, y = ((points + 0.5) * near.SIDE - 0.5).astype(np.float32).T.reshape(2, 24, 24)
        other = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(own, other, atol=0.02)


def test_hash_of_a_mirrored_variant_is_that_of_the_mirrored_picture():
    pictures = np.random.default_rng(4).random((70, near.SIDE, near.SIDE)).astype(np.float32)
    flat, flipped = pictures.reshape(70, -1), np.ascontiguousarray(pictures[:, :, ::-1]).reshape(70, -1)
    half = len(near.variants()) // 2
    for mean in (None, flat.mean(axis=0)):
        own, other = near.variant_hashes(flat, mean), near.variant_hashes(flipped, mean)
        middle = near.variants()[:half].index(near.Variant(False, 0.0, 0.02))
        assert (np.bitwise_count(own[half + middle] ^ other[middle]) <= 2).mean() > 0.95


def test_what_was_found_is_kept_with_the_store(people, tmp_path):
    rows = [
        Record(f"p{k}", picture, "train", None, "Fear") for k, picture in enumerate([*people[:8], people[0][:, ::-1]])
    ]
    store = write_store(rows, tmp_path / "s", dataset="toy", size=SIZE, channels=3)
    assert near_pairs(store).tolist() == [[0, 8]]
    kept = store.path / KEPT
    np.savez(kept, key=np.load(kept)["key"], pairs=np.array([[1, 2]]), likeness=np.ones(1))
    assert near_pairs(open_store(store.path)).tolist() == [[1, 2]], "read, not looked for again"
    assert near_pairs(store, NEAR_BITS, NEAR_CORRELATION + 0.01).tolist() == [[0, 8]], "another question"
    kept.write_bytes(b"damaged")
    assert near_pairs(store).tolist() == [[0, 8]]


def test_flat_pictures(tmp_path):
    grey = [np.full((SIZE, SIZE), value, np.uint8) for value in (7, 8)]
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE), dtype=np.uint8)
    rows = [Record(f"p{k}", picture, "train", None, "Fear") for k, picture in enumerate([*grey, noise])]
    store = write_store(rows, tmp_path / "s", dataset="toy", size=SIZE, channels=1)
    assert near_pairs(store).tolist() == [[0, 1]]


def test_near_duplicates_are_dropped_reported_or_kept(people, tmp_path, capsys):
    import tiny

    from mien.training.notes import tell_split
    from mien.training.session import split_rows

    rows = [Record(f"p{k}", picture, "train", None, "Fear") for k, picture in enumerate(people[:70])]
    rows.append(Record("copy", np.ascontiguousarray(people[0][:, ::-1]), "test", None, "Fear"))
    store = write_store(rows, tmp_path / "s", dataset="toy", size=SIZE, channels=3)
    assert strict(store).report["dropped_from_train"] == 1
    for choice, words in (
        ("drop", "left out as identical or near-dup"),
        ("report", "1 training faces have a copy"),
        ("keep", ""),
    ):
        recipe = tiny.recipe(store.path, data={"near_duplicates": choice})
        split = split_rows(store, recipe)
        assert (0 in {*split.train, *split.valid}) == (choice != "drop")
        tell_split(recipe, store, split)
        assert words in capsys.readouterr().out
