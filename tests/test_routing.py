"""Expert routing: counts against routing recomputed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_models import byte_tokenizer, tiny_config
from xling.routing import ROUTERS, RoutingCounter, is_mixture, recording_routing
from xling.scoring import InProcessEngine

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 300, "num_experts_per_tok": 2, "pad_token_id": 0,
}  # fmt: skip
OTHERS = {"mixtral": {"num_local_experts": 4}, "olmoe": {"num_experts": 4}}
ATTENTION = {"deepseek_v3": ["q_a_proj", "o_proj"]}
PROMPTS = [
    "Which? 1) a 2) b",
    "שלום, איך? 1) a 2) b 3) c 4) d",
    "x",
    "Il-belt ta' Malta hi l-Belt.",
]


def build(architecture: str) -> Any:
    """A tiny model with random weights, and random biases where its routers have them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = (
        AutoConfig.for_model(architecture, **SIZES, **OTHERS[architecture])
        if architecture in OTHERS
        else tiny_config(architecture, len(byte_tokenizer()))
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "inv_freq" not in name and (tensor.dim() > 1 or "bias" in name):
                tensor.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module", params=sorted(ROUTERS))
def mixture(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, build(request.param)


def batch(padding: str = "left") -> dict[str, torch.Tensor]:
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = padding
    inputs = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def routers_of(model: Any) -> list[Any]:
    found = [m for m in model.modules() if type(m).__name__ in ROUTERS.values()]
    assert found
    return found


def chosen_by_hand(architecture: str, router: Any, config: Any, hidden: Any) -> np.ndarray:
    """Experts of each token from the architecture's published rule, shape (tokens, top k)."""
    logits = hidden @ router.weight.detach().double().numpy().T
    if architecture == "gpt_oss":
        logits = logits + router.bias.detach().double().numpy()
    if architecture != "deepseek_v3":  # softmax keeps the order of the logits
        return np.argsort(-logits, axis=1)[:, : config.num_experts_per_tok]
    scores = 1 / (1 + np.exp(-logits)) + router.e_score_correction_bias.double().numpy()
    groups = scores.reshape(len(scores), config.n_group, -1)
    best = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)
    kept = np.argsort(-best, axis=1)[:, : config.topk_group]
    allowed = np.zeros(groups.shape, bool)
    np.put_along_axis(allowed, kept[:, :, None], True, axis=1)
    masked = np.where(allowed, groups, -np.inf).reshape(scores.shape)
    return np.argsort(-masked, axis=1)[:, : config.num_experts_per_tok]


def counts_by_hand(architecture: str, model: Any, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Recomputes the routing from what the routers are given, token by token."""
    seen: list[np.ndarray] = []
    routers = routers_of(model)
    hooks = [
        router.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].reshape(-1, args[0].shape[-1]).double().numpy())
        )
        for router in routers
    ]
    with torch.inference_mode():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    real = inputs["attention_mask"].reshape(-1).bool().numpy()
    counts = np.zeros((len(routers), routers[0].num_experts), np.int64)
    for layer, (router, hidden) in enumerate(zip(routers, seen, strict=True)):
        for token in chosen_by_hand(architecture, router, model.config, hidden)[real]:
            counts[layer, token] += 1
    return counts


def count(model: Any, *passes: dict[str, Any]) -> np.ndarray:
    with recording_routing(model) as counter, torch.inference_mode():
        for inputs in passes:
            model(**inputs)
    return counter.counts()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_counts_are_those_of_routing_by_hand(mixture: tuple[str, Any], padding: str) -> None:
    architecture, model = mixture
    inputs = batch(padding)
    assert is_mixture(model)
    counts = count(model, inputs)
    np.testing.assert_array_equal(counts, counts_by_hand(architecture, model, inputs))
    assert counts.dtype == np.int64 and len(np.unique(counts)) > 3
    tokens = int(inputs["attention_mask"].sum())
    assert tokens < inputs["attention_mask"].numel()
    assert counts.sum(axis=1).tolist() == [tokens * 2] * len(counts)


def test_padding_is_not_counted(mixture: tuple[str, Any]) -> None:
    _, model = mixture
    inputs = batch()
    singles = [
        {"input_ids": ids[mask.bool()][None]}
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    np.testing.assert_array_equal(count(model, inputs), count(model, *singles))
    assert count(model, {"input_ids": inputs["input_ids"]}).sum() > count(model, inputs).sum()


def test_an_adapter_changes_routing_and_is_counted(mixture: tuple[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model

    architecture, model = mixture
    inputs = batch()
    base = count(model, inputs)
    names = ATTENTION.get(architecture, ["q_proj", "o_proj"])
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=names, init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    try:
        assert is_mixture(adapted)
        tuned = count(adapted, inputs)
        np.testing.assert_array_equal(tuned, counts_by_hand(architecture, adapted, inputs))
        assert (tuned != base).any()
        inner = adapted.get_base_model()
        with recording_routing(adapted) as counter, torch.inference_mode():
            inner.model(**inputs)  # the backbone alone, as where logits are taken at one place
        np.testing.assert_array_equal(counter.counts(), tuned)
    finally:
        adapted.unload()
    np.testing.assert_array_equal(count(model, inputs), base)


def test_a_cached_prefix_counts_once(mixture: tuple[str, Any]) -> None:
    from transformers import DynamicCache

    _, model = mixture
    rows = torch.randint(3, 250, (3, 9), generator=torch.Generator().manual_seed(0))
    rows[:, :5] = rows[0, :5]
    whole = count(model, {"input_ids": rows})
    prefix = count(model, {"input_ids": rows[:1, :5]})
    with recording_routing(model) as counter, torch.inference_mode():
        cache = DynamicCache(config=model.config)
        model(input_ids=rows[:1, :5], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(3)
        mask = torch.ones_like(rows)
        mask[1, 7:] = 0  # a suffix padded on the right
        model(input_ids=rows[:, 5:], attention_mask=mask, past_key_values=cache, use_cache=True)
    assert counter.counts().sum(axis=1).tolist() == [(5 + 3 * 4 - 2) * 2] * len(counter.layers)
    shorter = count(model, {"input_ids": rows[[0, 2]]}, {"input_ids": rows[1:2, :7]})
    np.testing.assert_array_equal(counter.counts() + 2 * prefix, shorter)
    assert whole.sum() > shorter.sum()


def test_experts_apart_count_like_fused_ones() -> None:
    class Apart(torch.nn.Module):
        """The fused experts of one block as single linear layers."""

        def __init__(self, fused: Any) -> None:
            super().__init__()
            self.act = fused.act_fn
            self.up, self.down = (
                torch.nn.ModuleList(self._linear(weight) for weight in stack)
                for stack in (fused.gate_up_proj, fused.down_proj)
            )

        @staticmethod
        def _linear(weight: torch.Tensor) -> torch.nn.Linear:
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight = torch.nn.Parameter(weight.detach().clone())
            return layer

        def forward(self, hidden: Any, chosen: Any, weights: Any) -> Any:
            out = torch.zeros_like(hidden)
            for expert, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
                token, place = torch.where(chosen == expert)
                gate, value = up(hidden[token]).chunk(2, dim=-1)
                answer = down(self.act(gate) * value) * weights[token, place, None]
                out.index_add_(0, token, answer)
            return out

    model = build("qwen3_moe")
    inputs = batch()
    fused = count(model, inputs)
    for layer in model.model.layers:
        layer.mlp.experts = Apart(layer.mlp.experts)
    model.config.model_type = "qwen3_moe_apart"
    assert is_mixture(model)
    np.testing.assert_array_equal(count(model, inputs), fused)


def test_scoring_counts_each_prompt_token_whatever_the_batches(tiny_model) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model("deepseek_v3")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    prompts = [f"{prompt}\n{ending}(" for prompt in PROMPTS for ending in ("", "again ")]
    found = []
    for batch_tokens in (4096, 1):
        engine = InProcessEngine(
            model, tokenizer, add_special_tokens=True, batch_tokens=batch_tokens
        )
        with recording_routing(model, repeats=lambda engine=engine: engine.repeats) as counter:
            scores = engine.score(prompts)
            found.append(counter.counts())
            assert counter.counts().sum() == scores.n_tokens.sum() * 2 * len(counter.layers)
            counter.reset()
            assert counter.counts().sum() == 0
    np.testing.assert_array_equal(*found)
    assert counter.layers == (1, 2)  # the first layer is dense
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_pass_that_breaks_off_is_not_counted() -> None:
    model, inputs = build("qwen3_moe"), batch()
    expected = count(model, inputs)
    last = model.model.layers[-1].self_attn
    with recording_routing(model) as counter, torch.inference_mode():
        hook = last.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            model(**inputs)
        hook.remove()
        assert counter.counts().sum() == 0
        model(**inputs)
    np.testing.assert_array_equal(counter.counts(), expected)
    routers_of(model)[0](torch.zeros(1, 64))  # outside of the block nothing counts
    np.testing.assert_array_equal(counter.counts(), expected)


def test_what_cannot_be_recorded_is_refused() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    for architecture in ("llama", "gemma3_text", "qwen3"):
        dense = build(architecture)
        assert not is_mixture(dense)
    with pytest.raises(ValueError, match="'qwen3' is dense"), recording_routing(dense):
        pass
    settings = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 8}
    unknown = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("qwen2_moe", **SIZES, **settings)
    )
    assert is_mixture(unknown)
    with (
        pytest.raises(ValueError, match=r"'qwen2_moe'.*known: deepseek_v3, gpt_oss, .*qwen3_moe"),
        recording_routing(unknown),
    ):
        pass
    model = build("qwen3_moe")
    ids = torch.ones(2, 3, dtype=torch.long)
    with (
        recording_routing(model),
        pytest.raises(ValueError, match=r"mask has shape \(2, 2\) for 2 x 3 tokens"),
    ):
        model(input_ids=ids, attention_mask=torch.ones(2, 2))
    block = model.model.layers[1].mlp
    block.forward = lambda hidden: hidden  # as a kernel that stands in for the whole block
    with recording_routing(model), pytest.raises(RuntimeError, match=r"layers \[1\] were not"):
        model(input_ids=ids)
    counter = RoutingCounter([0], 4)
    counter.begin_pass(torch.ones(3, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="for 3 tokens"):
        counter.add(0, torch.zeros(2, 1, dtype=torch.long))


def test_a_mixture_type_with_dense_layers_only_is_dense() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("qwen3_moe", **SIZES, num_experts=4, mlp_only_layers=[0, 1])
    assert not is_mixture(AutoModelForCausalLM.from_config(config))
