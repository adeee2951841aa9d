"""Operations and kept bytes against what torch itself counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from xling.models.adapters import attach_lora, chosen_modules
from xling.models.fast_forward import reduce_compute
from xling.planning.compute import forward_flops, training_flops, training_seconds, writing_seconds
from xling.planning.configurations import shipped_configurations
from xling.planning.gpus import gpus
from xling.planning.memory import Setting, scoring_memory, training_memory
from xling.planning.sizes import Sizes, model_sizes

ROWS, LENGTH, R = 2, 64, 8
SHAPE = {
    "vocab_size": 259,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "max_position_embeddings": 512,
}
DENSE = ["llama", "qwen2", "qwen3", "gemma3_text"]


def made(architecture: str, *, attention: str, dtype: Any = torch.float32) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SHAPE)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    return model.requires_grad_(False)


def sizes_of(architecture: str, **changed: int) -> Sizes:
    return model_sizes({"model_type": architecture, **SHAPE, **changed})


def loss_of(model: Any) -> torch.Tensor:
    ids = torch.full((ROWS, LENGTH), 5)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    output = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False)
    return torch.nn.functional.cross_entropy(output.logits[:, -1].float(), torch.tensor([1, 2]))


@pytest.mark.parametrize("architecture", DENSE)
def test_operations_equal_those_that_torch_counts(architecture: str) -> None:
    model = made(architecture, attention="eager")  # torch counts no fused kernel of a CPU
    sizes = sizes_of(architecture)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        loss_of(model)
    adapted = attach_lora(
        model, modules=chosen_modules(model), r=R, alpha=16, dropout=0.0, seed=0
    ).train()
    with FlopCounterMode(display=False) as training:
        loss_of(adapted).backward()
    tokens = ROWS * LENGTH
    assert forward_flops(sizes, tokens=tokens, length=LENGTH, reads=ROWS) == (
        forward.get_total_flops()
    )
    estimate = training_flops(
        sizes, tokens=tokens, length=LENGTH, examples=ROWS, r=R, gradient_checkpointing=False
    )
    assert estimate == pytest.approx(training.get_total_flops(), rel=0.04)


@pytest.mark.parametrize("architecture", DENSE)
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_bytes_are_those_that_autograd_keeps(
    architecture: str, dropout: float, dtype: torch.dtype
) -> None:
    model = made(architecture, attention="sdpa", dtype=dtype)
    adapted = attach_lora(
        model, modules=chosen_modules(model), r=R, alpha=16, dropout=dropout, seed=0
    ).train()
    weights = {p.untyped_storage().data_ptr() for p in adapted.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with reduce_compute(adapted, plain_copies=False), hooks:
        loss = loss_of(adapted)
    setting = Setting(value_bytes=dtype.itemsize, r=R, dropout=dropout, mask_bytes=dtype.itemsize)
    estimate = training_memory(
        sizes_of(architecture), setting, rows=ROWS, length=LENGTH, gradient_checkpointing=False
    )
    assert estimate.activations == pytest.approx(sum(kept.values()), rel=0.05)
    del loss


def test_checkpointing_keeps_less_and_shards_hold_less() -> None:
    sizes = model_sizes(shipped_configurations()["Qwen/Qwen3-32B"])

    def memory(*, checkpointed: bool, processes: int = 1, parallel: str = "fsdp") -> Any:
        return training_memory(
            sizes, Setting(), rows=4, length=512, gradient_checkpointing=checkpointed,
            processes=processes, parallel=parallel,
        )  # fmt: skip

    whole, checkpointed = memory(checkpointed=False), memory(checkpointed=True)
    assert checkpointed.activations < whole.activations / 10
    assert memory(checkpointed=True, processes=8).weights < checkpointed.weights / 4
    assert memory(checkpointed=True, processes=8, parallel="ddp") == checkpointed


def test_a_mixture_that_is_parametrised_is_checkpointed_whatever_the_study_says() -> None:
    sizes = model_sizes(shipped_configurations()["openai/gpt-oss-20b"])
    plain, checkpointed = (
        training_memory(sizes, Setting(), rows=4, length=512, gradient_checkpointing=value)
        for value in (False, True)
    )
    assert plain == checkpointed
    # One layer's gate and up matrices of all experts in bfloat16.
    assert plain.transient > 32 * 2880 * 5760 * 2


def test_memory_of_scoring_grows_with_the_batch_and_its_cache() -> None:
    sizes = model_sizes(shipped_configurations()["Qwen/Qwen3-4B"])
    small, large, cached = (
        scoring_memory(sizes, Setting(), batch_tokens=tokens, length=256, cached_tokens=more)
        for tokens, more in ((4096, 0), (8192, 0), (8192, 1000))
    )
    assert large.transient == 2 * (small.transient - dequantised()) + dequantised()
    assert cached.total - large.total == 1000 * sizes.kv_bytes_per_token()


def dequantised() -> int:
    """The largest matrix of Qwen3-4B in bfloat16."""
    return 2560 * 9728 * 2


def test_shards_cost_time_and_between_nodes_more() -> None:
    sizes = model_sizes(shipped_configurations()["deepseek-ai/DeepSeek-V3.1"])

    def seconds(processes: int, shards: int) -> float:
        return training_seconds(
            sizes, flops=1e15, passes=100, gradient_checkpointing=True, processes=processes,
            sharded_bytes=shards, gpu=gpus()["H100-80GB"],
        )  # fmt: skip

    launching = seconds(8, 0)
    assert seconds(8, 349 * 10**9) >= launching
    # 100 passes of three gatherings of 15/16 of the weights at 50 GB/s.
    assert seconds(16, 349 * 10**9) == pytest.approx(100 * 3 * 349 * 15 / 16 / 50)


def test_writing_reads_the_weights_once_for_all_rows() -> None:
    sizes = model_sizes(shipped_configurations()["Qwen/Qwen3-32B"])

    def seconds(rows: int) -> float:
        return writing_seconds(
            sizes, written=1000, rows=rows, length=1, weight_bytes=64 * 10**9,
            gpu=gpus()["A100-80GB"],
        )  # fmt: skip

    assert seconds(10) == pytest.approx(seconds(1) / 10, rel=0.01)
