from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from xling.files.atomic import atomic_directory

# What safetensors raised when a checkpoint was written to a full tmpfs.
NATIVE = "Error while serializing: I/O error: No space left on device (os error 28)"


def test_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), atomic_directory(tmp_path / "a" / "done") as folder:
        (folder / "half").write_text("x")
        raise KeyError
    assert list((tmp_path / "a").iterdir()) == []
    with atomic_directory(tmp_path / "a" / "done") as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["done"]


def test_the_first_of_two_writers_wins(tmp_path):
    with atomic_directory(tmp_path / "done") as slow:
        (slow / "name").write_text("slow")
        with atomic_directory(tmp_path / "done") as fast:
            (fast / "name").write_text("fast")
    assert (tmp_path / "done" / "name").read_text() == "fast"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("writer", ["python", "native"])
def test_full_disk_is_one_error_that_names_the_folder(tmp_path, writer):
    with (
        pytest.raises(OSError, match=rf"cannot write to {tmp_path} \(No space left") as caught,
        atomic_directory(tmp_path / "done"),
    ):
        if writer == "python":
            with Path("/dev/full").open("w") as full:
                full.write("x")
        else:
            raise SafetensorError(NATIVE)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
