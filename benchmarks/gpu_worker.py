"""Scores and trains a 4B-shaped model in four bits on a GPU, in several ways."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import work_once

# Rows, inner and outer size of products: a large square one, and the model's own.
SHAPES = {
    "square, 8192": (8192, 8192, 8192),
    "up, 16384 tokens, 2560 to 9728": (16384, 2560, 9728),
    "down, 16384 tokens, 9728 to 2560": (16384, 9728, 2560),
    "query, 16384 tokens, 2560 to 4096": (16384, 2560, 4096),
}
LORA = {"r": 16, "alpha": 32, "seed": 0, "dropout": 0.0}
WARM_UP, STEP = 64, 64
# Ways that are the package's own, and what is tried beside them.
SCORED, TRAINED = "xling: plain copies", "xling: plain copies, adapters in half precision"
COMPILED = ", and compiled blocks"
# Bytes beside the weights, for scoring that runs out of memory.
NARROW = 2**29


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """Rates, and every way of scoring and training.

    Args:
        settings: ``scored`` and ``trained``, numbers of prompts; ``changed``: of the model's
            configuration; ``limit_s``: no way of training begins later than that.
    """
    from benchmarks.gpu_model import save_model
    from benchmarks.scored_items import LANGUAGE, load_items
    from xling.models import locate_model
    from xling.prompts import PromptFormat, render_prompts

    until = time.perf_counter() + settings["limit_s"]
    name, items = load_items([LANGUAGE])
    prompts = render_prompts(items, PromptFormat(), None)
    golds = [item.correct_answer_num for item in items]
    with tempfile.TemporaryDirectory(prefix="xling-gpu-") as folder:
        save_model(Path(folder), prompts, **settings["changed"])
        opened = locate_model(folder, quantise="nf4").open()
        bench = Bench(opened, prompts, golds, until=until)
        return {
            "data": name,
            "device": bench.device_name,
            "parameters": bench.parameters,
            "rates": rates(),
            "padding": bench.padding(settings["scored"]),
            "scoring": bench.scoring(settings["scored"]),
            "backing_off": bench.backing_off(settings["scored"]),
            "training": bench.training(settings["trained"]),
        }


def rates() -> dict[str, float]:
    """Operations a second of each product in bfloat16; the median of ten."""
    import torch

    found = {}
    for name, (rows, inner, outer) in SHAPES.items():
        left = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
        right = torch.randn(outer, inner, device="cuda", dtype=torch.bfloat16)
        product = partial(torch.nn.functional.linear, left, right)
        for _ in range(3):
            product()
        seconds = statistics.median(timed(product)[0] for _ in range(10))
        found[name] = 2 * rows * inner * outer / seconds
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds until the GPU is done, and what the work gives."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    found = work()
    torch.cuda.synchronize()
    return time.perf_counter() - start, found


@contextmanager
def compiled(blocks: list[Any]) -> Iterator[None]:
    """Compiles decoder blocks for the time of the block, for any shape of batch."""
    try:
        for each in blocks:
            each.compile(dynamic=True)
        yield
    finally:
        for each in blocks:
            each._compiled_call_impl = None


class Bench:
    """A loaded model and its prompts."""

    def __init__(self, opened: Any, prompts: list[str], golds: list[int], *, until: float) -> None:
        import torch

        from xling.prompts import label_token_ids

        self.opened, self.prompts, self.golds = opened, prompts, golds
        self.until = until
        self.device_name = torch.cuda.get_device_name()
        self.lengths = [len(row) for row in opened.tokenizer(prompts)["input_ids"]]
        self.labels = list(label_token_ids(opened.tokenizer, prompts[0], add_special_tokens=True))
        head = opened.model.get_output_embeddings()
        self.parameters = sum(
            each.in_features * each.out_features
            for each in opened.model.modules()
            if isinstance(each, torch.nn.Linear) and each is not head
        )

    def padding(self, count: int) -> float:
        """Padded tokens by the prompts' own, in batches of 16,384."""
        import numpy as np

        from xling.scoring.batch_plan import plan_batches

        lengths = np.array(self.lengths[:count])
        batches = plan_batches(lengths, 16384)
        return float(sum(len(b) * lengths[b].max() for b in batches) / lengths.sum())

    def scoring(self, count: int) -> dict[str, dict[str, float]]:
        """Seconds of each way, after a warm-up on some prompts."""
        from xling.models.fast_forward import blocks_of, reduce_compute

        model = self.opened.model
        ways = {
            "as torch comes: cuDNN's attention, four bits": (None, {}),
            "attention of any shape, four bits": (False, {}),
            SCORED: (True, {}),
            f"{SCORED}, batches of 4,096 tokens": (True, {"batch_tokens": 4096}),
            f"{SCORED}, passages shared": (True, {"share_prefixes": True}),
            f"{SCORED}{COMPILED}": (True, {}),
        }
        found = {}
        reference = None
        for name, (copies, engine) in ways.items():
            with ExitStack() as stack:
                if copies is not None:
                    stack.enter_context(reduce_compute(model, plain_copies=copies))
                if COMPILED in name:
                    stack.enter_context(compiled(blocks_of(model)))
                found[name] = self._scored(count, engine)
            scores = found[name].pop("scores")
            reference = scores if reference is None else reference
            found[name]["difference"] = float(abs(scores - reference).max())
            found[name]["same"] = float((scores.argmax(1) == reference.argmax(1)).mean())
            print(name, found[name], file=sys.stderr, flush=True)
        with self._adapter() as adapted, reduce_compute(adapted.eval(), plain_copies=True):
            name = f"{SCORED}, with an adapter"
            found[name] = self._scored(count, {}, model=adapted)
            found[name].pop("scores")
            print(name, found[name], file=sys.stderr, flush=True)
        return found

    def _scored(self, count: int, engine: dict[str, Any], model: Any = None) -> dict[str, Any]:
        from xling.scoring import InProcessEngine

        chosen = {"batch_tokens": 16384, "share_prefixes": False, **engine}
        made = InProcessEngine(
            model or self.opened.model, self.opened.tokenizer, add_special_tokens=True, **chosen
        )
        warm, _ = timed(lambda: made.score(self.prompts[:WARM_UP]))
        seconds, scores = timed(lambda: made.score(self.prompts[:count]))
        tokens = sum(self.lengths[:count])
        return {
            "warm_up_s": warm,
            "scores": scores.logprobs,
            **self._figures(seconds, tokens, 2 * self.parameters),
        }

    def training(self, count: int) -> dict[str, dict[str, float]]:
        """Seconds of each way, after a step to warm up."""
        usual = {"plain_copy": True}
        ways: dict[str, dict[str, Any]] = {
            TRAINED: usual,
            f"{TRAINED}, passes of 4,096 tokens": {**usual, "pass_tokens": 4096},
            f"{TRAINED}, passes of 16,384 tokens": {**usual, "pass_tokens": 16384},
            "four bits": {},
            f"{TRAINED}, gradient checkpointing": {**usual, "gradient_checkpointing": True},
            f"{TRAINED}{COMPILED}": usual,
        }
        found = {}
        for name, way in ways.items():
            if time.perf_counter() < self.until:
                found[name] = self._trained(count, way, fused=COMPILED in name)
                print(name, found[name], file=sys.stderr, flush=True)
        return found

    def backing_off(self, count: int) -> dict[str, float]:
        """Scoring where memory runs out on batches of 65,536 tokens, beside one where it does not.

        Returns:
            Tokens of the batches that it went on with, and the largest difference in nats.
        """
        import torch

        from xling.scoring import InProcessEngine

        def engine(tokens: int) -> InProcessEngine:
            return InProcessEngine(
                self.opened.model,
                self.opened.tokenizer,
                add_special_tokens=True,
                batch_tokens=tokens,
                share_prefixes=False,
            )

        roomy = engine(4096).score(self.prompts[:count])
        torch.cuda.empty_cache()
        room = torch.cuda.memory_allocated() + NARROW
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(room / whole)
        try:
            tight = engine(65536)
            scores = tight.score(self.prompts[:count])
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return {
            "tokens": tight.batch_limit or 0,
            "difference": float(abs(scores.logprobs - roomy.logprobs).max()),
        }

    def _trained(self, count: int, way: dict[str, Any], *, fused: bool) -> dict[str, float]:
        import torch

        from xling.models.fast_forward import blocks_of

        # The last block has a hook of its own while it is trained, which compiled code would miss.
        blocks = blocks_of(self.opened.model)[:-1] if fused else []
        with compiled(blocks):
            warm, _ = timed(lambda: self._train(self.prompts[:STEP], way))
            torch.cuda.reset_peak_memory_stats()
            seconds, curve = timed(lambda: self._train(self.prompts[:count], way))
        tokens = sum(self.lengths[:count])
        found = self._figures(seconds, tokens, 4 * self.parameters)
        return {**found, "warm_up_s": warm, "first_loss": curve[0], "last_loss": curve[-1]}

    def _train(self, prompts: list[str], way: dict[str, Any]) -> list[float]:
        from xling.study.settings import TrainingSettings
        from xling.training.batching import MemoryUse
        from xling.training.loop import Example, TrainingSet, train_adapter

        examples = [Example(*each) for each in zip(prompts, self.golds, strict=False)]
        with self._adapter() as adapted, tempfile.TemporaryDirectory() as folder:
            result = train_adapter(
                adapted,
                self.opened.tokenizer,
                TrainingSet(examples, self.labels, add_special_tokens=True),
                TrainingSettings(
                    batch_size=STEP, learning_rate=1e-4, warmup_steps=1, checkpoints=1
                ),
                seed=0,
                folder=Path(folder),
                memory=MemoryUse(**{"gradient_checkpointing": False, **way}),
            )
        return [row["loss"] for row in result.curve]

    @contextmanager
    def _adapter(self) -> Iterator[Any]:
        with self.opened.trainable(**LORA) as (adapted, _):
            yield adapted

    def _figures(self, seconds: float, tokens: int, operations: int) -> dict[str, float]:
        """Seconds, rates and memory; the peak starts anew after."""
        import torch

        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return {
            "seconds": seconds,
            "tokens_per_s": tokens / seconds,
            "operations_per_s": operations * tokens / seconds,
            "peak_bytes": peak,
        }


if __name__ == "__main__":
    work_once(work)
