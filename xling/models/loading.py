"""Loads a base model in four bits (NF4, double quantisation) and its tokenizer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling.models.adapters import linear_routers
from xling.models.architectures import Architecture, architecture_of
from xling.models.four_bit import (
    MIN_FOUR_BIT_SHARE,
    FourBitShare,
    check_four_bit_share,
    four_bit_share,
    keep_layout,
)
from xling.models.weights.config_safety import check_runs_no_code
from xling.models.weights.safetensors_files import read_config as read_json

if TYPE_CHECKING:
    import torch
    from transformers import (
        BitsAndBytesConfig,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

__all__ = [
    "MIN_FOUR_BIT_SHARE",
    "FourBitShare",
    "check_four_bit_share",
    "compute_dtype",
    "default_device_map",
    "device_name",
    "four_bit_share",
    "load_base",
    "load_tokenizer",
]

logger = logging.getLogger(__name__)

DeviceMap = str | Mapping[str, str | int]
# NF4 with double quantisation takes 0.52 bytes a weight, of two in the file; embeddings keep both.
FOUR_BIT_BYTES = 0.3
NO_FOREIGN_CODE = (
    "Models that bring their own code (trust_remote_code) are not run; use one whose "
    "architecture transformers has"
)
# Share of a GPU's memory for weights; the rest is activations, adapter and optimiser.
WEIGHTS_SHARE = 0.8
# Bytes of weights that take long enough to load for a bar of their own.
LONG_LOAD = 8 * 2**30


def compute_dtype() -> torch.dtype:
    """Return bfloat16 on a GPU that has it, else float32.

    On CPUs always float32: few have bfloat16, and a study gives the same numbers on all of them.
    """
    import torch

    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def device_name() -> str:
    """Return ``cuda`` if there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_device_map(folder: Path, *, four_bit: bool) -> DeviceMap:
    """Decide where a model goes.

    One of several processes (``LOCAL_RANK`` is set) takes its own GPU; a process alone takes one
    GPU, or all that it sees where the weights are too large for one.

    Args:
        folder: has the safetensors files, whose sizes decide.
        four_bit: whether they are quantised while they are loaded.
    """
    import torch

    if not torch.cuda.is_available():
        return {"": "cpu"}
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None:
        return {"": int(rank) % torch.cuda.device_count()}
    needed = _weight_bytes(folder) * (FOUR_BIT_BYTES if four_bit else 1)
    free = torch.cuda.get_device_properties(0).total_memory * WEIGHTS_SHARE
    return "auto" if torch.cuda.device_count() > 1 and needed > free else {"": "cuda"}


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@contextmanager
def _bar_of_long_loads(folder: Path) -> Iterator[None]:
    """Hide transformers' bar where a load takes seconds: a cell has its own."""
    from transformers.utils import logging as bars

    hidden = bars.is_progress_bar_enabled() and _weight_bytes(folder) < LONG_LOAD
    if hidden:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            bars.enable_progress_bar()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads on the left, so that the answer position is each row's last.

    Raises:
        ValueError: its files are damaged, or need their own code.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, padding_side="left", trust_remote_code=False
        )
    except MemoryError:
        raise
    except Exception as error:  # the library that reads tokenizer.json raises no other type
        raise ValueError(
            f"cannot read the tokenizer of {folder}: {_first_line(error)}\n{NO_FOREIGN_CODE}, or "
            "fetch the tokenizer's files again"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    folder: Path, *, four_bit: bool = True, device_map: DeviceMap | None = None
) -> PreTrainedModel:
    """Load a causal language model, frozen and in evaluation mode.

    A mixture's experts are set apart, or quantised as stacks, as its architecture says.

    Args:
        folder: has config.json and safetensors weights.
        four_bit: quantise to NF4 with double quantisation (Dettmers et al. 2023, QLoRA);
            False loads it in `compute_dtype`.
        device_map: as transformers takes it; None: `default_device_map`.

    Raises:
        ValueError: less than `MIN_FOUR_BIT_SHARE` of the block parameters came out in four bits,
            weights are missing from the files, or transformers does not know the model type.
    """
    config = read_config(folder)
    architecture = architecture_of(config.model_type)
    model_class, config, settings = _loading_plan(config, architecture)
    if four_bit:
        settings["quantization_config"] = _quantisation(model_class, config, architecture)
    with _bar_of_long_loads(folder):
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            dtype=compute_dtype(),
            device_map=device_map or default_device_map(folder, four_bit=four_bit),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **settings,
        )
    _check_complete(report, folder)
    model.requires_grad_(False)
    model.eval()
    if four_bit:
        keep_layout(model)
        share = four_bit_share(model)
        logger.debug(
            "%s: %.1f%% of the block parameters are in four bits", folder, 100 * share.of_blocks
        )
        check_four_bit_share(share, name=str(folder))
    return model


def read_config(folder: Path) -> PreTrainedConfig:
    """Read a model's configuration.

    Raises:
        ValueError: transformers does not know the model type, or the file asks for code that
            transformers does not have.
    """
    from transformers import AutoConfig

    check_runs_no_code(folder, read_json(folder))
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"cannot read the configuration of {folder}: {_first_line(error)}\n{NO_FOREIGN_CODE}"
        ) from error


def _first_line(error: Exception) -> str:
    """Say what went wrong, without the library's advice to trust the code."""
    return str(error).strip().partition("\n")[0]


def causal_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Find the class of transformers that predicts the next token.

    Raises:
        ValueError: the architecture has none.
    """
    from transformers import AutoModelForCausalLM

    mapping = AutoModelForCausalLM._model_mapping
    if type(config) not in mapping:
        raise ValueError(
            f"model type {config.model_type!r} is not a causal language model of transformers: "
            "use a decoder, such as those in the catalog"
        )
    found: type[PreTrainedModel] = mapping[type(config)]
    return found


def _loading_plan(
    config: PreTrainedConfig, architecture: Architecture | None
) -> tuple[type[PreTrainedModel], PreTrainedConfig, dict[str, Any]]:
    """Return class, configuration and further settings for ``from_pretrained``."""
    if architecture is None:
        return causal_class(config), config, {}
    if architecture.text_tower:
        config = config.get_text_config()
    model_class = causal_class(config)
    if architecture.text_tower:
        model_class = _without_images(model_class)
    if architecture.experts == "unfuse":
        from xling.models.experts import unfused_class, unfused_config

        model_class = unfused_class(model_class, architecture)
        config = unfused_config(config)
    settings: dict[str, Any] = {"attn_implementation": architecture.attention}
    if architecture.renamed:
        settings["key_mapping"] = dict(architecture.renamed)
    return model_class, config, settings


def _without_images(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Make the same class, to which what sees images is no surprise in a checkpoint."""
    members = {
        "__module__": model_class.__module__,
        "_keys_to_ignore_on_load_unexpected": ["vision_tower", "multi_modal_projector"],
    }
    made: type[PreTrainedModel] = type(model_class.__name__, (model_class,), members)
    return made


def _quantisation(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    architecture: Architecture | None,
) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig

    settings: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": compute_dtype(),
    }
    if architecture is None:
        routers = linear_routers(_without_weights(model_class, config))
        if routers:  # naming any module replaces transformers' own list, which has the head
            settings["llm_int8_skip_modules"] = [*routers, "lm_head"]
    if architecture is not None and architecture.experts == "parametrise":
        from xling.models.fused_experts import with_fused_experts

        return with_fused_experts(settings)
    return BitsAndBytesConfig(**settings)


def _without_weights(
    model_class: type[PreTrainedModel], config: PreTrainedConfig
) -> PreTrainedModel:
    import torch

    with torch.device("meta"):
        return model_class(config)


def _check_complete(report: dict[str, Any], folder: Path) -> None:
    """Refuse a model of which transformers would have drawn weights at random."""
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        wrong = missing or sorted(str(row[0]) for row in report["mismatched_keys"])
        hint = (
            "; experts are read one by one, as the original checkpoints have them: a file with "
            "fused experts does not do"
            if any(".experts." in name for name in wrong)
            else ""
        )
        raise ValueError(
            f"the safetensors files in {folder} lack {len(missing)} of the model's weights, or "
            f"have others in their place: {', '.join(wrong[:3])}{hint}. Fetch the whole model, "
            "or check that config.json belongs to it"
        )
