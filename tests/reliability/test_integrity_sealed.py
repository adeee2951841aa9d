"""A sealed folder: whatever happens to a file of it is found before it is used."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from xling.files.atomic import atomic_directory
from xling.files.checksums import (
    CHECKSUMS,
    checksummed_directory,
    find_damage,
    make_once,
    read_stamps,
    write_checksums,
)

CASES = 60 * int(os.environ.get("XLING_SOAK", "1"))


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "cache" / "weights"
    rng = random.Random(0)
    with checksummed_directory(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "model.safetensors").write_bytes(rng.randbytes(5_000))
        (temporary / "deep" / "config.json").write_text('{"layers": 2}')
    return target


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS]


def changed(content: bytes, rng: random.Random) -> bytes:
    """A content with one bit turned, or cut off somewhere."""
    place = rng.randrange(len(content))
    if rng.random() < 0.3:
        return content[:place]
    return (
        content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    )


def test_an_untouched_folder_is_whole_and_not_read_again(folder, monkeypatch):
    assert not find_damage(folder) and not find_damage(folder, thorough=True)
    monkeypatch.setattr(
        "xling.files.checksums.stamp_file", lambda path: pytest.fail(f"{path} was read")
    )
    assert not find_damage(folder)


def test_every_change_of_any_file_is_found_and_named(folder, tmp_path):
    rng = random.Random(1)
    for case in range(CASES):
        copy = tmp_path / f"copy-{case}"
        shutil.copytree(folder, copy)
        assert not find_damage(copy)  # a copy has other times, and the same content
        path = rng.choice(files(copy))
        before = path.stat()
        path.write_bytes(changed(path.read_bytes(), rng))
        if rng.random() < 0.5:  # as an archive or a copy sets the time back
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.name in find_damage(copy)
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "more.json").write_text("{}"), "more.json was added"),
        (lambda folder: (folder / CHECKSUMS).write_text('{"model'), "checksums .* are damaged"),
        (lambda folder: (folder / CHECKSUMS).write_text("[1]"), "checksums .* are damaged"),
        (lambda folder: (folder / CHECKSUMS).unlink(), "it has no checksums"),
        (
            lambda folder: os.truncate(folder / "model.safetensors", 4_000),
            "model.safetensors is cut off at 4000 bytes, not 5000",
        ),
    ],
)
def test_what_is_wrong_is_said(folder, harm, says):
    harm(folder)
    assert re.search(says, find_damage(folder))


def test_files_may_be_added_where_that_is_allowed(folder):
    (folder / "more.json").write_text("{}")
    assert not find_damage(folder, more=True) and find_damage(folder) == "more.json was added"


def test_a_touched_file_is_read_once_and_then_known(folder):
    path = folder / "model.safetensors"
    os.utime(path, ns=(1, 1))
    assert not find_damage(folder)
    assert read_stamps(folder / CHECKSUMS)["model.safetensors"].modified == 1


def test_a_damaged_folder_is_made_again_and_said(folder):
    def make(temporary: Path) -> None:
        (temporary / "model.safetensors").write_text("anew")

    said: list[str] = []
    make_once(folder, make, warn=said.append)
    assert (folder / "deep").is_dir() and not said
    os.truncate(folder / "model.safetensors", 10)
    make_once(folder, make, warn=said.append)
    assert (folder / "model.safetensors").read_text() == "anew" and not find_damage(folder)
    assert said == ["model.safetensors is cut off at 10 bytes, not 5000"]


def test_a_folder_whose_making_fails_is_not_there(tmp_path):
    def make(temporary: Path) -> None:
        (temporary / "half").write_text("half")
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        make_once(tmp_path / "new", make, warn=print)
    assert not (tmp_path / "new").exists()


def test_a_folder_of_an_earlier_version_is_sealed_by_hand(tmp_path):
    with atomic_directory(tmp_path / "old") as temporary:
        (temporary / "file").write_text("content")
    assert find_damage(tmp_path / "old") == "it has no checksums"
    write_checksums(tmp_path / "old")
    assert not find_damage(tmp_path / "old")
