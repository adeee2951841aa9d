"""Whether the disk has space for a quantised checkpoint of the hub, before it is fetched."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from xling.files.paths import cache_folder
from xling.models.catalog import Recipe
from xling.models.weights.dequantise import GIGABYTE, dequantised_path

# Bytes of the plain floats over those of the checkpoint, at least: 13.8 GB of GPT-OSS 20B become
# 41.8 GB. What it is exactly is known, and checked, when the files are there.
GROWTH = {"mxfp4": 3.0, "fp8": 1.9}

logger = logging.getLogger(__name__)


def check_disk_space(recipe: Recipe, patterns: Sequence[str], ignored: Sequence[str]) -> None:
    """Refuse a quantised hub model that the disk cannot hold together with its plain floats.

    Where the hub does not say how large the files are (offline, for one), nothing is checked yet.

    Args:
        recipe: of a hub model.
        patterns: of the files that will be fetched.
        ignored: of those that will not.

    Raises:
        ValueError: says how much is needed, where, and what to do.
    """
    from huggingface_hub import constants, snapshot_download

    if recipe.precision == "float":
        return
    try:
        files = snapshot_download(
            recipe.repository,
            revision=recipe.revision or None,
            allow_patterns=list(patterns),
            ignore_patterns=list(ignored),
            dry_run=True,
        )
    except OSError as error:
        logger.info(
            "%s: the disk space that it takes is not known before it is fetched (%s)",
            recipe.repository,
            str(error).partition("\n")[0],
        )
        return
    if not files:
        return
    missing = sum(each.file_size or 0 for each in files if each.will_download)
    floats = GROWTH[recipe.precision] * sum(
        each.file_size or 0 for each in files if each.filename.endswith(".safetensors")
    )
    if dequantised_path(f"hub:{recipe.repository}@{files[0].commit_hash}").is_dir():
        floats = 0
    _check(recipe, missing, Path(constants.HF_HUB_CACHE), floats)


def _check(recipe: Recipe, missing: float, hub: Path, floats: float) -> None:
    """Compare what is needed with what is free, on one disk or on two."""
    hub, own = _existing(hub), _existing(cache_folder())
    one_disk = hub.stat().st_dev == own.stat().st_dev
    needed = {hub: missing + floats} if one_disk else {hub: missing, own: floats}
    for folder, amount in needed.items():
        free = shutil.disk_usage(folder).free
        if free < amount:
            raise ValueError(
                f"model {recipe.repository!r} needs {missing / GIGABYTE:.1f} GB to be fetched and "
                f"at least {floats / GIGABYTE:.1f} GB dequantised: {amount / GIGABYTE:.1f} GB of "
                f"that in {folder}, where {free / GIGABYTE:.1f} GB are free. Make room, or move "
                "the caches to larger disks by setting HF_HOME and XDG_CACHE_HOME"
            )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
