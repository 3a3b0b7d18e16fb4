"""Files are whole or as they were; what goes wrong is one line."""

import errno
import hashlib

import numpy as np
import pytest

from mien.errors import DataError
from mien.files import file_sha256, replacing, write_atomic, write_npz


def test_text_bytes_and_arrays_in_a_new_folder(tmp_path):
    folder = tmp_path / "new" / "folder"
    write_atomic(folder / "a.txt", "é")
    write_atomic(folder / "b.bin", b"\x00\x01")
    write_npz(folder / "c.npz", {"x": np.arange(3)})
    assert (folder / "a.txt").read_text(encoding="utf-8") == "é"
    assert np.load(folder / "c.npz")["x"].tolist() == [0, 1, 2]
    assert file_sha256(folder / "b.bin") == hashlib.sha256(b"\x00\x01").hexdigest()
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.bin", "c.npz"]


@pytest.mark.parametrize(
    ("error", "told", "words"),
    [
        (OSError(errno.ENOSPC, "No space left"), DataError, r"disk is full .*a\.txt.*same command again"),
        (PermissionError(errno.EACCES, "Permission denied"), DataError, r"cannot write .*a\.txt': Permission denied"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["full", "permission", "stopped"],
)
def test_the_old_file_stays_as_it_was(tmp_path, error, told, words):
    file = tmp_path / "a.txt"
    write_atomic(file, "old")

    def half() -> None:
        with replacing(file) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(told, match=words) as caught:
        half()
    assert "\n" not in str(caught.value)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_atomic(tmp_path / "a" / "b.txt", "")
