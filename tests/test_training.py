import re
import shutil

import pytest
import torch

from xling.distributed.team import Team
from xling.models.adapters import attach_lora, matching_modules
from xling.models.architectures import DENSE_PROJECTIONS
from xling.models.loading import load_base, load_tokenizer
from xling.prompts import label_token_ids
from xling.training import Example, train_adapter

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


def train(folder, work, *, seed=0, examples=EXAMPLES, **changes):
    model, tokenizer = load_base(folder), load_tokenizer(folder)
    adapted = attach_lora(
        model,
        modules=matching_modules(model, DENSE_PROJECTIONS),
        r=4,
        alpha=8,
        dropout=0.0,
        seed=seed,
    )
    labels = label_token_ids(tokenizer, EXAMPLES[0].prompt, add_special_tokens=True)
    result = train_adapter(
        adapted,
        tokenizer,
        examples,
        label_ids=labels,
        add_special_tokens=True,
        folder=work,
        seed=seed,
        **(RECIPE | changes),
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
    class Apart(Team):
        """This process's team-mate sees a folder without checkpoints."""

        def gather(self, value):
            return [value, 0] if isinstance(value, int) else [value, None]

    folder = tiny_model("llama")
    train(folder, tmp_path, epochs=1)
    with pytest.raises(RuntimeError, match=f"checkpoints from {tmp_path}: of steps 4, 0, by rank"):
        train(folder, tmp_path, team=Apart())


def test_no_examples_is_an_error(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="no training examples"):
        train(tiny_model("llama"), tmp_path, examples=[])
