"""Models: the catalog, their weights, four-bit loading and LoRA adapters.

What is asked of a model, and what it answers, never stands here.
"""

from __future__ import annotations

from xling.models.catalog import catalog
from xling.models.loaded import BaseModelCache, LoadedModel, ModelFiles, get_base, locate_model
from xling.models.weights.find import Weights, check_model_name, fetch_weights, find_recipe

__all__ = [
    "BaseModelCache",
    "LoadedModel",
    "ModelFiles",
    "Weights",
    "catalog",
    "check_model_name",
    "fetch_weights",
    "find_recipe",
    "get_base",
    "locate_model",
]
