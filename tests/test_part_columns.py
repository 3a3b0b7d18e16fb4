"""Columns of a part by their buffers: the same arrays, files and values as pyarrow's own, without what pyarrow imports."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mien.data.fingerprint import fingerprint
from mien.data.part_columns import column, numbers, texts
from mien.datasets.fer2013 import _pixels
from mien.faces.pictures import load_picture

COLUMNS = {
    "texts": (["a", "", "zwölf", "\u4e2d"], pa.string()),
    "plain texts": (["a", "bc", ""], pa.string()),
    "some unknown": (["a", None, "é", None, *"bcdefgh"], pa.string()),
    "all unknown": ([None] * 9, pa.string()),
    "pictures": ([b"\0\1", b"", b"\xff" * 70], pa.large_binary()),
    "numbers": ([0, 2**64 - 1, 7], pa.uint64()),
    "vectors": ([np.array([1, np.nan], dtype=np.float32)] * 3, pa.list_(pa.float32(), 2)),
    "truths": ([np.array([True, False, True])] * 7, pa.list_(pa.bool_(), 3)),
    "nothing": ([], pa.string()),
    "no vectors": ([], pa.list_(pa.float32(), 2)),
}


def usual(values, kind):
    if pa.types.is_fixed_size_list(kind):
        flat = np.concatenate([*values, np.empty(0, kind.value_type.to_pandas_dtype())])
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), type=kind)
    return pa.array(values, kind)


def file_of(array):
    sink = pa.BufferOutputStream()
    schema = pa.schema([pa.field("x", array.type)])
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([array], schema=schema))
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_that_of_pyarrow_to_the_byte(name):
    values, kind = COLUMNS[name]
    made, expected = column(values, kind), usual(values, kind)
    made.validate(full=True)
    assert made.equals(expected) or name == "vectors"  # NaN equals nothing
    assert file_of(made) == file_of(expected)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("start", [0, 1])
def test_a_column_is_read_as_pyarrow_reads_it(name, start):
    values, kind = COLUMNS[name]
    array = usual(values, kind)[start:]
    if pa.types.is_string(kind):
        assert texts(array) == array.to_pylist()
    elif not pa.types.is_large_binary(kind):
        flat = array.flatten() if pa.types.is_fixed_size_list(kind) else array
        expected = flat.to_numpy(zero_copy_only=False)
        np.testing.assert_array_equal(numbers(array), expected)
        assert numbers(array).dtype == kind.value_type.to_pandas_dtype() if name != "numbers" else np.uint64


def test_the_fingerprint_has_not_changed():
    """Two batches, one with unknown texts, a fold and letters beyond ASCII, the other with a group of twins."""

    def batch(**twins):
        rows = {
            "id": ["a", 'zwölf "x"'], "digest": ["0" * 40, "1" * 40], "split": ["train", "test"], "subject": [None, "\u4e2d"],
            "expression": ["Anger", None], "attributes": ['{"fold": 3, "x": 1}', "{}"],
        }  # fmt: skip
        arrays = {name: pa.array(values, pa.string()) for name, values in (rows | twins).items()}
        for name in ("votes", "action_units", "landmarks", "pose"):
            flat = pa.array(np.array([0, np.nan, 2, 3], dtype=np.float32))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, 2)
        return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))

    twins = {"same_person": ["p", None], "same_actions": [None, None]}
    assert fingerprint([batch()]) == "b5b9d183963db6def00513f4361b250dcf079b3a7ca7305d19db822126f37ba7"
    assert fingerprint([batch(), batch(**twins)]) == "498abd6a31e22e34d351d0ac5606408c4e1dff5db41cbab97fe7dbe4967c9105"


def test_prepare_imports_neither_pandas_nor_every_format_of_pictures(tmp_path):
    for name in ("happy", "sad"):
        (tmp_path / "root" / name).mkdir(parents=True)
        Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "root" / name / "a.png")
    code = (
        "import sys; from mien import cli; cli.main(sys.argv[1:]); "
        "print([name for name in ('pandas', 'PIL.TiffImagePlugin', 'urllib.request') if name in sys.modules])"
    )
    command = ["prepare", "folder", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("suffix", ["webp", "tif", "jp2"])
def test_formats_that_pillow_does_not_know_from_the_start(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(path)
    assert abs(load_picture(path).astype(int) - 90).max() <= 2
    assert abs(load_picture(path.read_bytes()).astype(int) - 90).max() <= 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" ".join(["7"] * 2304), None),
        ("  ".join(["7"] * 2304), None),
        ("\t".join(["+7"] * 2304), None),
        (" ".join(["7"] * 2303), "2303 pixels, expected 2304"),
        ("", "0 pixels, expected 2304"),
        (" ".join(["256"] * 2304), "pixels outside 0..255"),
        (" ".join(["9" * 30] * 2304), "pixels outside 0..255"),
        (" ".join(["-1"] * 2304), "pixels outside 0..255"),
        (" ".join(["1.5"] * 2304), "pixels that are no integers"),
        (" ".join(["x"] * 2304), "pixels that are no integers"),
    ],
)
def test_pixels_of_fer2013(text, found):
    pixels = _pixels(text)
    if found is None:
        assert (pixels == np.full((48, 48), 7)).all()
    else:
        assert pixels == found
