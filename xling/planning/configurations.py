"""A model's configuration and tokenizer, without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from xling.files.paths import cache_folder
from xling.models.catalog import Recipe
from xling.models.weights.find import fetch_weights, find_recipe
from xling.study.settings import ModelSettings


@dataclass(frozen=True)
class Configuration:
    """What is known of a model before its weights are fetched.

    Attributes:
        recipe: how it is prompted and adapted.
        config: what its config.json holds.
        source: where that is from, in words.
        tokenizer: folder with its tokenizer on this machine; None: there is none.
    """

    recipe: Recipe
    config: Mapping[str, Any]
    source: str
    tokenizer: Path | None


def find_configuration(model: ModelSettings) -> Configuration:
    """Find a model's configuration: on this machine, in the package, or on the hub.

    What is on this machine wins: it is what would be loaded.

    Raises:
        ValueError: the model is unknown, or its configuration is in none of the three places.
    """
    recipe = find_recipe(model.id, revision=model.revision)
    folder = _at_hand(recipe)
    if folder is not None and (folder / "config.json").is_file():
        return Configuration(recipe, _read(folder), "the model's own", _with_tokenizer(folder))
    name = recipe.repository or recipe.name
    shipped = shipped_configurations()
    if name in shipped:
        return Configuration(recipe, shipped[name], "as published", _with_tokenizer(folder))
    fetched = fetch_weights(recipe, tokenizer_only=True).folder
    if not (fetched / "config.json").is_file():
        raise ValueError(f"{name!r} has no config.json; is it a model?")
    return Configuration(recipe, _read(fetched), "from the hub", _with_tokenizer(fetched))


def shipped_configurations() -> dict[str, dict[str, Any]]:
    """Read the published values that decide sizes, by repository."""
    found: dict[str, dict[str, Any]] = {}
    for path in files("xling.models").joinpath("configurations").iterdir():
        if path.name.endswith(".json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            found |= dict.fromkeys(content["repositories"], content["config"])
    return found


def _at_hand(recipe: Recipe) -> Path | None:
    """Find what this machine already has of a model; nothing is fetched or converted."""
    if recipe.weights is not None:
        converted = (cache_folder() / "converted").glob(f"{recipe.weights.sha256[:16]}*")
        return max(converted, default=None)
    if Path(recipe.repository).is_dir():
        return Path(recipe.repository)
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "tokenizer.json"):
        cached = try_to_load_from_cache(recipe.repository, name, revision=recipe.revision or None)
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def _with_tokenizer(folder: Path | None) -> Path | None:
    names = ("tokenizer.json", "tokenizer.model")
    return folder if folder and any((folder / name).is_file() for name in names) else None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch the model again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings; fetch the model again")
    return config
