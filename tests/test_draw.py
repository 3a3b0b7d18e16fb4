import base64
import io

import numpy as np
import pytest
from PIL import Image

from mien import draw
from mien.errors import DataError


def picture(height: int = 40, width: int = 40, value: int = 120) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_colour():
    values = np.array([[0.0, 1.0], [np.nan, 7.0]])
    for name in draw.COLOUR_MAPS:
        rgb = draw.colour(values, name)
        assert rgb.shape == (2, 2, 3)
        assert rgb.dtype == np.uint8
        assert (rgb[1, 0] == 128).all()
        assert (rgb[0, 1] == rgb[1, 1]).all()  # clipped
    inferno = draw.colour(np.linspace(0, 1, 64)[None], "inferno").astype(int).sum(2)
    assert (np.diff(inferno[0]) >= -3).all()  # dark to bright; RGB, so its top is yellow
    assert draw.colour(np.ones((1, 1)), "inferno")[0, 0, 0] > 240


def test_turbo_is_rgb():
    low, high = draw.colour(np.array([[0.1, 0.95]]))[0].astype(int)
    assert low[2] > low[0]
    assert high[0] > high[2]


def test_overlay_shows_peak_and_keeps_the_rest():
    values = np.zeros((5, 5), np.float32)
    values[1, 3] = 1
    image = picture()
    before = image.copy()
    result = draw.overlay(image, values)
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    change = np.abs(result.astype(int) - image).sum(2)
    y, x = np.unravel_index(change.argmax(), change.shape)
    assert 8 <= y < 16
    assert 24 <= x < 32
    assert (image == before).all()
    assert (draw.overlay(image, values, strength=0) == image).all()
    assert draw.overlay(image[..., 0], values).shape == (40, 40, 3)


def test_landmarks():
    image = picture()
    points = np.array([[10.0, 30.0], [np.nan, np.nan], [-20.0, 5.0], [500.0, 5.0]])
    result = draw.landmarks(image, points, radius=1)
    changed = np.argwhere((result != image).any(2))
    assert (np.abs(changed - [30, 10]).max(1) <= 3).all()  # xy, and only the one point inside
    assert (result[30, 10] == (40, 255, 90)).all()
    assert (image == 120).all()


def test_fit_keeps_proportions():
    result = draw.fit(picture(20, 10, 0), (40, 40))
    assert (result[:, 10:30] == 0).all()
    assert (result[:, :10] == 255).all()
    assert (result[:, 30:] == 255).all()


def test_grid():
    cells = [[picture(), picture()], [picture(), None]]
    plain = draw.grid(cells, cell=32)
    full = draw.grid(cells, ["a", "row b"], ["x", "a long column name"], [["1", "2"], ["3"]], 32, "A title", bar=True)
    assert plain.shape[2] == full.shape[2] == 3
    assert full.shape[0] > plain.shape[0]
    assert full.shape[1] > plain.shape[1]
    assert (plain == 120).all(2).sum() == 3 * 32 * 32
    assert (full == 120).all(2).sum() >= 3 * 32 * 32 - 9
    assert draw.strip([picture()] * 3, ["a", "b", "c"]).shape[1] > 3 * 128


def test_bar_and_long_title_fit():
    assert draw.colour_bar(64).shape[0] == 64
    assert draw.grid([[picture()]], title="a title much longer than one small cell", cell=32).shape[1] > 200


@pytest.mark.parametrize(
    ("cells", "names", "match"),
    [
        ([], {}, "no pictures"),
        ([[]], {}, "no pictures"),
        ([[picture()]], {"rows": ["a", "b"]}, "2 row names for 1"),
        ([[picture()]], {"columns": ["a", "b"]}, "2 column names"),
        ([[picture()]], {"captions": [["a"], ["b"]]}, "2 rows of captions"),
        ([[np.zeros((4, 4, 3), np.float32)]], {}, "expected uint8"),
    ],
)
def test_grid_bad_input(cells, names, match):
    with pytest.raises(DataError, match=match):
        draw.grid(cells, **names)


def test_bad_maps():
    for bad in (np.zeros((1, 4, 4)), np.zeros(4)):
        with pytest.raises(DataError, match="expected \\(h, w\\)"):
            draw.overlay(picture(), bad)
        with pytest.raises(DataError, match="expected \\(h, w\\)"):
            draw.colour(bad)


def test_png(tmp_path):
    image = np.random.default_rng(0).integers(256, size=(8, 9, 3), dtype=np.uint8)
    path = tmp_path / "new" / "a.png"
    draw.write_png(path, image)
    assert (np.asarray(Image.open(path)) == image).all()
    head, data = draw.to_data_uri(image).split(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == image).all()
