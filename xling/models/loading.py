"""Loads a base model in four bits (NF4, double quantisation) and its tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Below this share of a model's block parameters, a load is not QLoRA: fused experts, for one,
# are left in full precision by a plain load.
MIN_FOUR_BIT_SHARE = 0.75


@dataclass(frozen=True)
class FourBitShare:
    """How much of a model is in four bits.

    Attributes:
        quantised: parameters in four bits.
        block: parameters of the decoder blocks (all but the embeddings and the head).
        total: all parameters.
    """

    quantised: int
    block: int
    total: int

    @property
    def of_blocks(self) -> float:
        """Share of the block parameters that is in four bits, 0–1."""
        return self.quantised / self.block if self.block else 0.0


def compute_dtype() -> "torch.dtype":
    """bfloat16 where the hardware has it, else float32 (emulated bfloat16 is very slow)."""
    import torch

    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def device_name() -> str:
    """``cuda`` if there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Tokenizer that pads on the left, so that the answer position is each row's last."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(folder: Path, *, four_bit: bool = True) -> "PreTrainedModel":
    """Loads a causal language model, frozen and in evaluation mode.

    Args:
        folder: has config.json and safetensors weights.
        four_bit: quantise to NF4 with double quantisation (Dettmers et al. 2023, QLoRA);
            False loads it in `compute_dtype`.

    Raises:
        ValueError: less than `MIN_FOUR_BIT_SHARE` of the block parameters came out in four bits.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = compute_dtype()
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device_name()},
        use_safetensors=True,
        trust_remote_code=False,
        quantization_config=quantisation if four_bit else None,
    )
    model.requires_grad_(False)
    model.eval()
    if four_bit:
        check_four_bit_share(four_bit_share(model), name=str(folder))
    return model


def four_bit_share(model: "PreTrainedModel") -> FourBitShare:
    """Counts the parameters of a loaded model by precision."""
    from bitsandbytes.nn import Params4bit

    outside = {
        id(module.weight)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    }
    quantised = block = total = 0
    for parameter in model.parameters():
        four_bit = isinstance(parameter, Params4bit)
        count = parameter.quant_state.shape.numel() if four_bit else parameter.numel()
        total += count
        quantised += count if four_bit else 0
        block += 0 if id(parameter) in outside else count
    return FourBitShare(quantised, block, total)


def check_four_bit_share(share: FourBitShare, *, name: str) -> None:
    """Refuses a load that left most of the model unquantised.

    Raises:
        ValueError: the share is under `MIN_FOUR_BIT_SHARE`.
    """
    if share.of_blocks < MIN_FOUR_BIT_SHARE:
        raise ValueError(
            f"only {share.of_blocks:.1%} of the block parameters of {name} are in four bits "
            f"(at least {MIN_FOUR_BIT_SHARE:.0%} needed): its architecture keeps fused experts "
            "that a plain load does not quantise, or has no linear layers; use a dense model, "
            "or set `quantise: none` for a small one"
        )
