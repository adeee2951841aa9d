from __future__ import annotations

import logging
import re
import shutil

import pytest
import torch

from xling.models.adapters import attach_lora, chosen_modules, matching_modules
from xling.models.architectures import DENSE_PROJECTIONS
from xling.models.fast_forward import (
    dequantised_copy,
    fused_adapters,
    last_position_alone,
    plain_weight,
    reduce_compute,
)
from xling.models.loading import four_bit_share, load_base, load_tokenizer
from xling.prompts import label_token_ids
from xling.scoring.in_process import answer_logits
from xling.study.settings import TrainingSettings
from xling.training.batching import MemoryUse
from xling.training.loop import Example, TrainingSet, train_adapter
from xling.training.process_group import ProcessGroup

pytestmark = pytest.mark.slow

RECIPE = {
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 0,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "checkpoints": 2,
}
EXAMPLES = [
    Example(f"The key is {n % 4 + 1}. {'pad ' * (n % 5)}Answer: (", n % 4 + 1) for n in range(32)
]
# float32 on CPU, torch 2.13, transformers 5.23, peft 0.21, bitsandbytes 0.50
PINNED_LOSSES = [5.6797, 6.1726, 5.29672, 4.17799, 3.52543, 4.01147, 3.33769, 3.07716]


def adapted_model(folder, *, seed=0):
    model = load_base(folder)
    modules = matching_modules(model, DENSE_PROJECTIONS)
    return attach_lora(model, modules=modules, r=4, alpha=8, dropout=0.0, seed=seed)


def out_of_memory_above(tokens):
    """As a GPU that holds so many tokens: the model's forward pass raises what torch raises."""

    def check(module, inputs, named):
        if named["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError(f"no room for {named['input_ids'].numel()} tokens")

    return check


def train(
    folder,
    work,
    *,
    seed=0,
    examples=EXAMPLES,
    most_tokens=0,
    watch=None,
    memory=None,
    group=None,
    **changes,
):
    adapted, tokenizer = adapted_model(folder, seed=seed), load_tokenizer(folder)
    if watch:
        adapted.register_forward_pre_hook(watch, with_kwargs=True)
    if most_tokens:
        adapted.register_forward_pre_hook(out_of_memory_above(most_tokens), with_kwargs=True)
    labels = label_token_ids(tokenizer, EXAMPLES[0].prompt, add_special_tokens=True)
    result = train_adapter(
        adapted,
        tokenizer,
        TrainingSet(examples, labels, add_special_tokens=True),
        TrainingSettings.model_validate(RECIPE | changes),
        seed=seed,
        folder=work,
        memory=memory,
        group=group,
    )
    weights = {
        name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad
    }
    return result, weights


def test_tiny_qlora_run_has_the_pinned_losses(tiny_model, tmp_path):
    result, _ = train(tiny_model("llama"), tmp_path)
    losses = [row["loss"] for row in result.curve]
    assert losses == pytest.approx(PINNED_LOSSES, abs=2e-4)
    assert result.steps == 8
    assert [row["step"] for row in result.curve] == list(range(1, 9))
    assert result.tokens == 2 * sum(len(e.prompt) + 1 for e in EXAMPLES)
    assert result.tokens_per_second > 0
    assert result.peak_memory_bytes > 1e8


def test_first_loss_is_the_plain_cross_entropy_of_the_label(tiny_model, tmp_path):
    folder = tiny_model("llama")
    result, _ = train(folder, tmp_path, examples=EXAMPLES[:8], epochs=1)
    model, tokenizer = load_base(folder), load_tokenizer(folder)
    losses = []
    for example in EXAMPLES[:8]:
        ids = tokenizer(example.prompt, return_tensors="pt")["input_ids"]
        label = tokenizer(str(example.gold), add_special_tokens=False)["input_ids"][0]
        with torch.inference_mode():
            losses.append(-model(input_ids=ids).logits[0, -1].log_softmax(-1)[label].item())
    assert result.curve[0]["loss"] == pytest.approx(sum(losses) / 8, abs=1e-4)


def test_same_seed_same_adapter_other_seed_other_adapter(tiny_model, tmp_path):
    folder = tiny_model("llama")
    _, first = train(folder, tmp_path / "a")
    _, again = train(folder, tmp_path / "b")
    _, other = train(folder, tmp_path / "c", seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_broken_training_goes_on_from_its_checkpoint_to_the_same_weights(tiny_model, tmp_path):
    folder = tiny_model("llama")
    whole_result, whole = train(folder, tmp_path / "whole")
    train(folder, tmp_path / "broken")
    for path in (tmp_path / "broken").iterdir():  # as if it had died after the first checkpoint
        if re.fullmatch(r"checkpoint-\d+", path.name) and path.name != "checkpoint-4":
            shutil.rmtree(path)
    half = tmp_path / "broken" / "checkpoint-6"  # and while it wrote the next one
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step"')
    result, resumed = train(folder, tmp_path / "broken")
    assert result.curve == whole_result.curve
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_accumulated_micro_batches_train_the_same(tiny_model, tmp_path):
    folder = tiny_model("llama")
    whole, _ = train(folder, tmp_path / "a")
    parts, _ = train(folder, tmp_path / "b", micro_batch_size=2)
    assert [row["loss"] for row in parts.curve] == pytest.approx(
        [row["loss"] for row in whole.curve], abs=2e-3
    )


def test_gradient_checkpointing_trains_the_same(tiny_model, tmp_path):
    folder = tiny_model("llama")
    whole, _ = train(folder, tmp_path / "a")
    saved, _ = train(folder, tmp_path / "b", gradient_checkpointing=True)
    assert [row["loss"] for row in saved.curve] == pytest.approx(
        [row["loss"] for row in whole.curve], abs=1e-4
    )


def test_processes_that_read_different_checkpoints_are_refused(tiny_model, tmp_path):
    class Apart(ProcessGroup):
        """This process's team-mate sees a folder without checkpoints."""

        def gather(self, value):
            return [value, 0] if isinstance(value, int) else [value, None]

    folder = tiny_model("llama")
    train(folder, tmp_path, epochs=1)
    with pytest.raises(RuntimeError, match=f"checkpoints from {tmp_path}: of steps 4, 0, by rank"):
        train(folder, tmp_path, group=Apart())


def test_no_examples_is_an_error(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="no training examples"):
        train(tiny_model("llama"), tmp_path, examples=[])


@pytest.mark.parametrize("micro_batch_size", [0, 4])
def test_memory_that_runs_out_makes_passes_smaller_and_losses_stay(
    tiny_model, tmp_path, caplog, micro_batch_size
):
    folder = tiny_model("llama")
    whole, _ = train(folder, tmp_path / "a", micro_batch_size=micro_batch_size)
    with caplog.at_level(logging.WARNING, logger="xling.training.step"):
        parts, _ = train(folder, tmp_path / "b", micro_batch_size=micro_batch_size, most_tokens=100)
    assert "memory ran out" in caplog.text
    assert len(caplog.records) <= 3  # it is remembered from step to step
    assert [row["loss"] for row in parts.curve] == pytest.approx(
        [row["loss"] for row in whole.curve], abs=2e-3
    )


def test_memory_that_one_example_exceeds_is_an_error(tiny_model, tmp_path):
    with pytest.raises(torch.OutOfMemoryError, match="no room for"):
        train(tiny_model("llama"), tmp_path, most_tokens=20)


def test_plain_copies_train_the_same_and_leave_the_four_bits(tiny_model, tmp_path):
    folder = tiny_model("llama")
    quantised, _ = train(folder, tmp_path / "a")
    plain, _ = train(folder, tmp_path / "b", memory=MemoryUse(False, plain_copy=True))
    assert [row["loss"] for row in plain.curve] == pytest.approx(
        [row["loss"] for row in quantised.curve], abs=1e-4
    )
    model = adapted_model(folder)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    share, inputs = four_bit_share(model), torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.inference_mode():
        before = answer_logits(model, inputs, torch.ones_like(inputs))
        with dequantised_copy(model) as taken:
            assert taken > 0
            assert plain_weight(layer).shape == (layer.out_features, layer.in_features)
            assert four_bit_share(model) == share
            within = answer_logits(model, inputs, torch.ones_like(inputs))
        after = answer_logits(model, inputs, torch.ones_like(inputs))
    assert plain_weight(layer) is None
    assert torch.equal(before, after)
    assert torch.allclose(before, within, atol=1e-5)


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "qwen3_moe", "gpt_oss", "deepseek_v3", "phi3"]
)
def test_less_work_gives_the_same_gradients(tiny_model, architecture):
    model = load_base(tiny_model(architecture))
    adapted = attach_lora(model, modules=chosen_modules(model), r=4, alpha=8, dropout=0.0, seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # else the gradients of the first matrices are zero
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.train()
    adapted.activation_checkpointing_enable()
    plain = gradients(adapted)
    with dequantised_copy(adapted), fused_adapters(adapted) as layers, last_position_alone(adapted):
        fused = gradients(adapted)
    assert layers > 0
    assert torch.allclose(plain, fused, rtol=1e-3, atol=1e-4 * plain.abs().max())
    assert torch.equal(gradients(adapted), plain)


@pytest.mark.parametrize("copied", [False, True])
def test_less_work_draws_the_same_dropout(tiny_model, copied):
    model = load_base(tiny_model("llama"))
    adapted = attach_lora(model, modules=chosen_modules(model), r=4, alpha=8, dropout=0.3, seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.train()
    torch.manual_seed(1)
    plain = gradients(adapted)
    with reduce_compute(adapted, plain_copies=copied):
        torch.manual_seed(1)
        fused = gradients(adapted)
        torch.manual_seed(2)
        other = gradients(adapted)
    assert torch.allclose(plain, fused, rtol=1e-3, atol=1e-4 * plain.abs().max())
    assert not torch.allclose(plain, other, rtol=1e-1, atol=1e-2 * plain.abs().max())


def gradients(model):
    """Of the answer's loss, for two prompts of unlike length, in one vector."""
    ids = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    logits = answer_logits(model, ids, mask).float()
    torch.nn.functional.cross_entropy(logits, torch.tensor([3, 4])).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained]
    )
    model.zero_grad()
    return found


def test_layers_with_fused_adapters_still_compute_without_them_and_in_other_types(tiny_model):
    model = adapted_model(tiny_model("llama"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[1, 2, 3, 4]])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    other = torch.randn(3, layer.in_features, dtype=torch.float64)
    with torch.inference_mode(), dequantised_copy(model):
        with model.disable_adapter():
            base = answer_logits(model, ids, torch.ones_like(ids))
        adapted, in_double = answer_logits(model, ids, torch.ones_like(ids)), layer(other)
        with fused_adapters(model) as layers:
            assert layers > 0
            with model.disable_adapter():
                assert torch.equal(answer_logits(model, ids, torch.ones_like(ids)), base)
            again = answer_logits(model, ids, torch.ones_like(ids))
            assert torch.equal(layer(other), in_double)
    assert not torch.allclose(base, adapted, atol=1e-3)
    assert torch.allclose(again, adapted, atol=1e-5)


@pytest.mark.parametrize("copied", [False, True])
def test_adapters_on_half_precision_are_added_there_and_trained_in_single(tiny_model, copied):
    model = load_base(tiny_model("llama"))
    adapted = attach_lora(model, modules=chosen_modules(model), r=4, alpha=8, dropout=0.0, seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_" not in name and parameter.is_floating_point():
            parameter.data = parameter.data.bfloat16()
        elif "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    for module in adapted.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.bfloat16
    adapted.train()
    plain = gradients(adapted)
    kinds = [type(module) for module in adapted.modules()]
    with reduce_compute(adapted, plain_copies=copied):
        assert kinds != [type(module) for module in adapted.modules()]
        fused = gradients(adapted)
    assert kinds == [type(module) for module in adapted.modules()]
    assert plain.dtype == fused.dtype == torch.float32
    similar = torch.nn.functional.cosine_similarity(plain, fused, dim=0)
    assert similar > 0.995  # of bfloat16's eight bits
    assert torch.equal(gradients(adapted), plain)


def test_passes_are_as_given_and_the_result_says_how_it_was_trained(tiny_model, tmp_path):
    folder = tiny_model("llama")
    sizes = []

    def count(module, inputs, named):
        sizes.append(named["input_ids"].shape)

    whole, _ = train(folder, tmp_path / "a")
    asked = MemoryUse(False, pass_rows=3, pass_tokens=100)
    parts, _ = train(folder, tmp_path / "b", epochs=1, watch=count, memory=asked)
    assert max(rows for rows, _ in sizes) == 3
    assert all(rows == 1 or rows * length <= 100 for rows, length in sizes)
    assert parts.memory_use == asked
    assert whole.memory_use.pass_tokens == 2048
    assert parts.curve[0]["loss"] == pytest.approx(whole.curve[0]["loss"], abs=2e-3)
