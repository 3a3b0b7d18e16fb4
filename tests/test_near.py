"""Copies that were mirrored, turned, cropped, brightened or coded again are found; different people of one studio are not."""

from itertools import product

import cv2
import numpy as np
import pytest

from mien.data import likeness, near
from mien.data.duplicates import KEPT, NEAR_BITS, NEAR_CORRELATION, near_pairs
from mien.data.folds import strict
from mien.data.store import open_store, write_store
from mien.data.variants import Variant, cells, place, variants
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
    if kind.startswith("corner"):
        return cut(float(kind[6:]), float(kind[6:]), 0, 0)
    if kind == "brighter":
        return np.clip(picture * 1.15 + 8.0, 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_UNCHANGED)


KINDS = [
    "flip",
    "turn5",
    "turn-7",
    "turn10",
    "turn12",
    "turn-12",
    "flip and turn 8",
    "crop0.025",
    "crop0.05",
    "corner0.05",
    "corner0.1",
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


def bits_of(value, table, bits):
    """Bits of a 48-bit number from 8 * table on, wrapped around."""
    text = f"{int(value):048b}"[::-1]
    return (text + text)[8 * table : 8 * table + bits]


@pytest.mark.parametrize(("bits", "limit"), [(8, 8), (12, 3), (16, 10)])
def test_meetings_twin(bits, limit):
    """All pairs with few different bits and a common window, as they are or mirrored, each once."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 1 << 48, 50, dtype=np.uint64)
    asked = base[rng.integers(0, 50, 70)]
    asked[::2] ^= near.MIRROR
    for k in range(70):
        asked[k] ^= np.uint64(sum(1 << int(bit) for bit in rng.choice(48, rng.integers(0, 12), replace=False)))
    expected = {
        (i, j, mirror > 0)
        for i, j, mirror in product(range(70), range(50), (0, int(near.MIRROR)))
        if (int(asked[i]) ^ mirror ^ int(base[j])).bit_count() <= limit
        and any(bits_of(int(asked[i]) ^ mirror, n, bits) == bits_of(base[j], n, bits) for n in range(6))
    }
    met = near.meetings(asked, near.tables(base, bits), bits, limit)
    found = [each for some in met for each in zip(*(part.tolist() for part in some), strict=True)]
    assert len(expected) > 20
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_a_crowd_does_not_become_all_its_pairs():
    """500 frames of one scene: each meets at most CROWD others a table, and yet nearly all are one group."""
    from mien.data.duplicates import components

    rng = np.random.default_rng(3)
    scene = cv2.GaussianBlur(rng.random((near.SIDE, near.SIDE)), (0, 0), 2) * 900 - 300
    frames = np.clip(scene + rng.normal(0, 1, (500, near.SIDE, near.SIDE)), 0, 255).astype(np.uint8).reshape(500, -1)
    base = near.pack(frames.astype(np.float32) @ near.directions(frames)[:, : near.BITS])
    met = sum(len(query) for query, _, _ in near.meetings(base, near.tables(base, 9), 9, 8))
    assert met <= 500 * 6 * near.CROWD
    assert np.bincount(components(500, near.copies(frames, 8, 0.3)[0])).max() > 450


def test_likeness_of_many_is_measured_by_their_spread():
    """Two pictures that share what all share are alike by plain correlation, and not by the set's."""
    rng = np.random.default_rng(5)
    shared, *own = (cv2.GaussianBlur(rng.random((near.SIDE, near.SIDE)), (0, 0), 1.5) for _ in range(301))
    pictures = np.stack([2 * shared * rng.normal(1, 0.2) + each for each in own])
    pictures = (
        np.clip((pictures - pictures.mean()) / pictures.std() * 50 + 128, 0, 255).astype(np.uint8).reshape(300, -1)
    )
    assert np.corrcoef(pictures[0], pictures[1])[0, 1] > 0.7
    white = likeness.whitening(pictures)
    assert abs(likeness.correlate(pictures[:150], pictures[150:], 0, white)).mean() < 0.2
    assert likeness.least_likeness(pictures, white, 0.8) == 0.8
    alike = np.tile(pictures[:2], (50, 1))
    assert likeness.least_likeness(alike, likeness.whitening(alike), 0.8) == pytest.approx(likeness.MOST)
    again = np.clip(pictures[:50] + rng.normal(0, 3, (50, near.SIDE**2)), 0, 255).astype(np.uint8)
    assert likeness.correlate(pictures[:50], again, 0, white).min() > 0.9


def test_a_variant_is_the_mirrored_shrunk_and_turned_picture():
    """The matrix against OpenCV, on a smooth picture; middle of the variant only, where no border is repeated."""
    side = 24
    picture = cv2.GaussianBlur(np.random.default_rng(2).random((side, side)).astype(np.float32), (0, 0), 2)
    for variant in variants():
        own = (cells(variant, side, 24, fine=1) @ picture.ravel()).reshape(24, 24)
        grid = (np.arange(24) + 0.5) / 24 - 0.5
        points = place(np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2), variant)
        x, y = ((points + 0.5) * side - 0.5).astype(np.float32).T.reshape(2, 24, 24)
        other = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(own, other, atol=0.02)


def test_hash_of_a_mirrored_picture_has_half_of_the_bits_inverted():
    rng = np.random.default_rng(4)
    pictures = rng.integers(0, 255, (70, near.SIDE, near.SIDE), dtype=np.uint8)
    flat, flipped = pictures.reshape(70, -1), np.ascontiguousarray(pictures[:, :, ::-1]).reshape(70, -1)
    lines = near.directions(flat)
    flat, flipped = flat.astype(np.float32), flipped.astype(np.float32)
    own, other = (near.pack(each @ lines[:, : near.BITS]) for each in (flat, flipped))
    assert (own ^ near.MIRROR == other).mean() > 0.9
    # a mirrored variant is the variant of the mirrored picture with the turn the other way, so plain crops are enough here
    number = variants().index(Variant(False, 0.0, 0.04))
    crop = slice(number * near.BITS, (number + 1) * near.BITS)
    own, other = (near.pack(each @ lines[:, crop]) for each in (flat, flipped))
    assert (own ^ near.MIRROR == other).mean() > 0.9


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
