"""A model of four billion parameters with random weights, and a tokenizer for it.

Speed does not depend on what the weights are, so none need be fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGURATION = Path(__file__).resolve().parent.parent / "xling/models/configurations/qwen3-4b.json"
# Of the trained tokenizer: about as many tokens a word of English as the model's own.
VOCABULARY = 16_000


def save_model(folder: Path, texts: Sequence[str], **changed: Any) -> None:
    """Saves Qwen3-4B's shape with random weights, and a tokenizer trained on the texts.

    Args:
        folder: where to.
        texts: prompts.
        changed: of the configuration, for a smaller model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = trained_tokenizer(texts)
    tokenizer.save_pretrained(folder)
    shape = json.loads(CONFIGURATION.read_text(encoding="utf-8"))["config"] | changed
    config = AutoConfig.for_model(
        shape.pop("model_type"), pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def trained_tokenizer(texts: Sequence[str]) -> Any:
    """Byte pairs of these texts; every digit is a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
