"""A cell's model on this machine: its files, tokenizer and recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xling.models import ModelFiles, fetch_weights, find_recipe, locate_model
from xling.models.catalog import Recipe
from xling.models.loaded import configured_context
from xling.study.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def locate(model: ModelSettings) -> ModelFiles:
    """Brings a study's model to this machine; see `xling.models.locate_model`."""
    return locate_model(
        model.id,
        revision=model.revision,
        chat=model.chat,
        lora_modules=model.lora_modules,
        quantise=model.quantise,
    )


def locate_served(model: ModelSettings) -> ModelFiles:
    """A study's model without weights that are on the hub: a server has them.

    It has the identity of the whole model, since tokenizer and weights are of one commit; it
    cannot be opened.

    Raises:
        ValueError: unknown model, or missing files.
    """
    recipe = _recipe(model)
    return ModelFiles(recipe, fetch_weights(recipe, tokenizer_only=True), model.quantise)


def locate_tokenizer(
    model: ModelSettings,
) -> tuple[Recipe, PreTrainedTokenizerBase, int | None]:
    """A study's model's recipe, tokenizer and context, without weights that are on the hub.

    Returns:
        The context is in tokens; None where the model's configuration names none.
    """
    located = locate_served(model)
    return located.recipe, located.tokenizer(), configured_context(located)


def _recipe(model: ModelSettings) -> Recipe:
    recipe = find_recipe(model.id, revision=model.revision)
    return recipe if model.chat is None else replace(recipe, chat=model.chat)
