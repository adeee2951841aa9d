"""Whether a model of an architecture in no table can be quantised, asked of its configuration."""

from pathlib import Path

from xling.models.architectures import architecture_of
from xling.models.four_bit import check_four_bit_share, foreseen_share
from xling.models.loading import causal_class, read_config


def check_derivable(folder: Path, *, name: str) -> None:
    """Refuses, from the configuration alone, a model of which most would not be in four bits.

    Args:
        folder: has config.json; no weights are needed.
        name: of the model, for the message.

    Raises:
        ValueError: the type is no causal language model of transformers, or the share of its
            linear layers is too small.
    """
    import torch

    config = read_config(folder)
    if architecture_of(config.model_type) is None:
        with torch.device("meta"):
            model = causal_class(config)(config)
        check_four_bit_share(foreseen_share(model), name=f"{name} ({config.model_type!r})")
