"""Fused experts in four bits: quantised as parameters while they are loaded."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn.parametrize import replace_parameter_4bit
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

METHOD = "bitsandbytes_with_fused_experts"
STACKS = ("gate_up_proj", "down_proj")


def with_fused_experts(settings: dict[str, Any]) -> BitsAndBytesConfig:
    """Make a four-bit configuration under which fused experts are quantised, too.

    Each stack is quantised as soon as it is read, so that no more than a few of them are ever in
    memory in full.

    Args:
        settings: arguments of BitsAndBytesConfig.
    """
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(METHOD)(QuantizerWithExperts)
    config: BitsAndBytesConfig = ConfigWithExperts(**settings)
    return config


class ConfigWithExperts(BitsAndBytesConfig):  # type: ignore[misc]
    """Chooses the quantiser below."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.quant_method = METHOD


class QuantizerWithExperts(Bnb4BitHfQuantizer):  # type: ignore[misc]
    """Also takes the experts' stacks."""

    def param_needs_quantization(self, model: Any, param_name: str, **rest: Any) -> bool:
        """Tell whether a parameter becomes four bits."""
        return is_stack(model, param_name) or bool(
            super().param_needs_quantization(model, param_name, **rest)
        )

    def get_quantize_ops(self) -> Any:
        """Return what quantises one tensor."""
        return QuantizeWithExperts(self)

    def _process_model_after_weight_loading(self, model: Any, **rest: Any) -> Any:
        model = super()._process_model_after_weight_loading(model, **rest)
        # From here on it is a model like any other that bitsandbytes quantised.
        self.quantization_config.quant_method = QuantizationMethod.BITS_AND_BYTES
        model.quantization_method = QuantizationMethod.BITS_AND_BYTES
        return model


def is_stack(model: Any, name: str) -> bool:
    """Tell whether a parameter is a stack of experts' weights, not yet quantised."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    return last in STACKS and last in module._parameters and module._parameters[last].dim() == 3


class QuantizeWithExperts(Bnb4bitQuantize):  # type: ignore[misc]
    """Quantises a linear layer's weight, or puts a stack into its module in four bits."""

    def convert(
        self,
        input_dict: dict[str, Any],
        model: Any = None,
        missing_keys: Any = None,
        **rest: Any,
    ) -> dict[str, Any]:
        """Return what transformers is to set; of stacks nothing, they are in their place."""
        stacks = [name for name in input_dict if is_stack(model, name)]
        for name in stacks:
            value = input_dict.pop(name)
            settings = self.hf_quantizer.quantization_config
            _quantise_stack(
                model,
                name,
                value[0] if isinstance(value, list) else value,
                compress=settings.bnb_4bit_use_double_quant,
                quant_type=settings.bnb_4bit_quant_type,
            )
            if missing_keys is not None:
                missing_keys.discard(name)
        left: dict[str, Any] = super().convert(input_dict, model=model, **rest)
        return left


def _quantise_stack(
    model: Any, name: str, value: torch.Tensor, *, compress: bool, quant_type: str
) -> None:
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    setattr(module, last, torch.nn.Parameter(value, requires_grad=False))
    replace_parameter_4bit(module, last, compress_statistics=compress, quant_type=quant_type)
    module._is_hf_initialized = True  # else transformers draws random weights for it
