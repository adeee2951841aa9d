"""A model that is ready to score or to train."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xling.models.adapters import (
    attach_lora,
    check_saved,
    chosen_modules,
    freeze_beneath,
    load_adapter,
)
from xling.models.architectures import Architecture, architecture_of
from xling.models.catalog import Recipe
from xling.models.four_bit import check_four_bit_share, foreseen_share
from xling.models.loading import DeviceMap, causal_class, load_base, load_tokenizer, read_config
from xling.models.memory import free_memory
from xling.models.weights.find import Weights, check_unchanged, fetch_weights, find_recipe

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORD = 8
Quantise = Literal["nf4", "none"]


def checksums(model: nn.Module) -> dict[str, int] | None:
    """Compute a number for each parameter and buffer, by name; other bits give another number.

    It takes one reading of the memory, far less than a load.

    Returns:
        None where some weights are not in memory, and cannot be compared.
    """
    found = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type == "meta":
            return None
        found[name] = _checksum(tensor.detach())
    return found


def _checksum(tensor: torch.Tensor) -> int:
    """Sum the bytes, eight at a time, modulo 2 to the 64th."""
    import torch

    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // WORD * WORD
    words = flat[:whole]
    if words.storage_offset() % WORD == 0:
        words = words.view(torch.int64)
    return int(words.sum(dtype=torch.int64)) + int(flat[whole:].sum(dtype=torch.int64))


def check_derivable(folder: Path, *, name: str) -> None:
    """Refuse, from the configuration alone, a model of which most would not be in four bits.

    Args:
        folder: has config.json; no weights are needed.
        name: of the model, for the message.

    Raises:
        ValueError: the type is not a causal language model of transformers, or the share of its
            linear layers is too small.
    """
    import torch

    config = read_config(folder)
    if architecture_of(config.model_type) is None:
        with torch.device("meta"):
            model = causal_class(config)(config)
        check_four_bit_share(foreseen_share(model), name=f"{name} ({config.model_type!r})")


@dataclass(frozen=True)
class LoadedModel:
    """A loaded base model, with or without an adapter.

    Attributes:
        recipe: what it was loaded from.
        weights: where its files are, and their identity.
        model: frozen, in evaluation mode.
        tokenizer: pads on the left.
    """

    recipe: Recipe
    weights: Weights
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase

    def with_adapter(self, folder: Path) -> LoadedModel:
        """Return the same base with a saved adapter on it."""
        return replace(self, model=load_adapter(self.model, folder))

    @contextmanager
    def adapted(self, folder: Path) -> Iterator[LoadedModel]:
        """Put a saved adapter on the base for the block, and take it off after."""
        loaded = self.with_adapter(folder)
        try:
            yield loaded
        finally:
            loaded.model.unload()

    @contextmanager
    def trainable(
        self, *, r: int, alpha: int, dropout: float, seed: int, primer: Path | None = None
    ) -> Iterator[tuple[PeftModel, tuple[str, ...]]]:
        """Put a new LoRA adapter on the base for the block, and take it off after.

        The arguments are those of `attach_lora`; `primer` is the folder of a saved adapter that
        goes beneath the new one, frozen.

        Yields:
            The wrapped model, and the names of the modules that got an adapter.
        """
        modules = chosen_modules(self.model, pattern=self.recipe.lora_modules)
        if primer is not None:
            check_saved(self.model, primer)
        adapted = attach_lora(
            self.model, modules=modules, r=r, alpha=alpha, dropout=dropout, seed=seed
        )
        if primer is not None:
            freeze_beneath(adapted, primer)
        try:
            yield adapted, modules
        finally:
            adapted.unload().eval()  # a training that broke leaves it in training mode


@dataclass(frozen=True)
class ModelFiles:
    """A model whose weights are on this machine, and are known, but not loaded.

    Attributes:
        recipe: how it is prompted and adapted.
        weights: where its files are, and their identity.
        quantise: ``nf4`` or ``none``.
    """

    recipe: Recipe
    weights: Weights
    quantise: Quantise

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its tokenizer."""
        return load_tokenizer(self.weights.folder)

    @property
    def architecture(self) -> Architecture | None:
        """What all models of its type have in common; None: its type is not known."""
        return architecture_of(read_config(self.weights.folder).model_type)

    @property
    def text_config(self) -> dict[str, Any]:
        """What config.json says of the text, in a part of the file or in all of it."""
        text = (self.weights.folder / "config.json").read_text(encoding="utf-8")
        config: dict[str, Any] = json.loads(text)
        part: dict[str, Any] = config.get("text_config", config)
        return part

    @property
    def context(self) -> int | None:
        """Tokens that it takes by its configuration; None where that names no limit."""
        written: int | None = self.text_config.get("max_position_embeddings")
        if written is not None:
            return written
        try:
            config = read_config(self.weights.folder)
        except ValueError:  # a type that only a server knows
            return None
        return getattr(config.get_text_config(), "max_position_embeddings", None)

    @property
    def needs_gradient_checkpointing(self) -> bool:
        """Whether it cannot be trained without, whatever the study file says."""
        architecture = self.architecture
        return architecture is not None and architecture.gradient_checkpointing

    def open(self, *, device_map: DeviceMap | None = None) -> LoadedModel:
        """Load it.

        Args:
            device_map: as in `load_base`.

        Raises:
            ValueError: the load quantised too little, or found too few weights; or the model's
                folder was changed since it was located.
        """
        model = load_base(
            self.weights.folder, four_bit=self.quantise == "nf4", device_map=device_map
        )
        check_unchanged(self.recipe, self.weights)
        return LoadedModel(self.recipe, self.weights, model, self.tokenizer())


def locate_model(
    model: str,
    *,
    revision: str = "",
    chat: bool | None = None,
    lora_modules: str = "",
    quantise: Quantise = "nf4",
    expected_identity: str = "",
) -> ModelFiles:
    """Fetch a model's weights to this machine and check them.

    Args:
        model: catalog name, Hugging Face id or folder.
        revision: of a Hugging Face id.
        chat: whether prompts go through the chat template; None: as the recipe says.
        lora_modules: pattern of the modules to adapt; empty: as the recipe says.
        quantise: ``nf4`` or ``none``.
        expected_identity: identity that the weights must have; empty: any.

    Raises:
        ValueError: unknown model, missing files, or other weights than expected.
        RuntimeError: packaged weights cannot be fetched.
    """
    recipe = find_recipe(model, revision=revision)
    if chat is not None:
        recipe = replace(recipe, chat=chat)
    if lora_modules:
        recipe = replace(recipe, lora_modules=lora_modules)
    if quantise == "nf4":
        _check_architecture(recipe)
    if expected_identity:
        _check_identity(recipe, expected_identity)
    return ModelFiles(recipe, fetch_weights(recipe), quantise)


def _check_identity(recipe: Recipe, expected: str) -> None:
    """Refuse other weights than expected, before large files are fetched or converted."""
    found = fetch_weights(recipe, tokenizer_only=True).identity
    if found != expected:
        raise ValueError(
            f"the weights of {recipe.repository or recipe.name!r} are {found}, but {expected} were "
            "expected: an adapter only fits the base that it was trained on"
        )


def _check_architecture(recipe: Recipe) -> None:
    """Refuse a hub model that cannot be quantised before its weights are fetched."""
    if recipe.weights is None and not Path(recipe.repository).is_dir():
        folder = fetch_weights(recipe, tokenizer_only=True).folder
        check_derivable(folder, name=recipe.repository)


class BaseModelCache:
    """Keeps the last loaded base, so that one load serves all arms of a model."""

    def __init__(self) -> None:
        self._files: ModelFiles | None = None
        self._base: LoadedModel | None = None
        self._checksums: dict[str, int] | None = None

    def open(self, files: ModelFiles) -> LoadedModel:
        """Return the base; it is loaded only if it is another one than the last."""
        if self._base is None or not self.holds(files):
            self.release()  # frees the last one before the next is loaded
            self._base = files.open()
            self._files = files
            self._checksums = checksums(self._base.model)
        return replace(self._base, recipe=files.recipe)

    def holds(self, files: ModelFiles) -> bool:
        """Tell whether the cached base is this model, however it is prompted and adapted."""
        last = self._files
        return last is not None and (
            (files.weights.identity, files.quantise) == (last.weights.identity, last.quantise)
        )

    def release(self) -> None:
        """Forget the base, and give its memory back."""
        self._base = self._files = self._checksums = None
        free_memory()

    @contextmanager
    def share(self) -> Iterator[None]:
        """Let logged adapters be loaded onto this cache's base in the block; see `get_base`.

        The base must be what others will load: if it is not, to the bit, what was loaded (a
        training changed it, or left something on it), it is forgotten before the block, and a
        fresh one is loaded. The same is checked after the block, for those who come next.
        """
        self._forget_if_changed()
        token = _shared.set(self)
        try:
            yield
        finally:
            _shared.reset(token)
            self._forget_if_changed()

    def _forget_if_changed(self) -> None:
        if self._base is None:
            return
        now = checksums(self._base.model)
        if now is None or now != self._checksums:
            self.release()


_shared: ContextVar[BaseModelCache | None] = ContextVar("shared", default=None)


def get_base(files: ModelFiles) -> LoadedModel:
    """Return a base without an adapter: of the cache shared in this block, or a fresh one.

    Raises:
        ValueError: as `ModelFiles.open`.
    """
    bases = _shared.get()
    return files.open() if bases is None else bases.open(files)
