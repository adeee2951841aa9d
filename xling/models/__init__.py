"""Models: the catalog, their weights, four-bit loading and LoRA adapters."""

from xling.models.catalog import catalog
from xling.models.loaded import BaseShelf, LocatedModel, OpenedModel, locate_model, open_base
from xling.models.weights.find import Weights, check_model_name, fetch_weights, find_recipe

__all__ = [
    "BaseShelf",
    "LocatedModel",
    "OpenedModel",
    "Weights",
    "catalog",
    "check_model_name",
    "fetch_weights",
    "find_recipe",
    "locate_model",
    "open_base",
]
