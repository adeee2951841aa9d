"""Compares the plan's memory estimates with measured peaks, each in a process of its own.

    python -m benchmarks.plan_memory

Models: Gemma 3 270M, and two of eight layers of width 512 with random weights, in four bits. On a
CPU the measure is the growth of the process's resident memory over what it had before it loaded
the model, its libraries being warm; on a CUDA device it is torch's count of allocated bytes.

The estimates count tensors. So does the measure with `--allocator exact`, where glibc hands back
at once what a tensor took; with `libc` freed tensors leave holes, as in a usual process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from xling.planning.memory import Setting, scoring_memory, training_memory
from xling.planning.sizes import model_sizes

ROWS, LENGTH, BATCH_TOKENS, R = 4, 384, 4096, 16
WIDE = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}
MODELS = ("gemma3-270m", "llama", "qwen3")
JOBS = ("training", "checkpointed", "scoring", "permuted")


@click.command()
@click.option("--model", type=click.Choice(MODELS), multiple=True, default=MODELS)
@click.option("--job", type=click.Choice(JOBS), multiple=True, default=JOBS)
@click.option("--allocator", type=click.Choice(["exact", "libc"]), default="exact")
@click.option("--child", default="", hidden=True)
def main(model: tuple[str, ...], job: tuple[str, ...], allocator: str, child: str) -> None:
    """Prints estimate, measured peak and error of each."""
    if child:
        click.echo(json.dumps(measure(Path(child), job[0])))
        return
    click.echo(f"{'model':<14}{'job':<14}{'estimate MB':>12}{'measured MB':>12}{'error':>8}")
    for name in model:
        with TemporaryDirectory(prefix="xling-") as folder:
            path = find_model(name, Path(folder))
            for each in job:
                found = in_own_process(path, each, exact=allocator == "exact")
                error = found["estimate"] / found["measured"] - 1
                click.echo(
                    f"{name:<14}{each:<14}{found['estimate'] / 1e6:>12.0f}"
                    f"{found['measured'] / 1e6:>12.0f}{error:>+8.1%}"
                )


def find_model(name: str, folder: Path) -> Path:
    """A folder with the model's files."""
    if name == "gemma3-270m":
        from xling.models.weights.find import fetch_weights, find_recipe

        return fetch_weights(find_recipe(name)).folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny_models import byte_tokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, pad_token_id=0, bos_token_id=1, eos_token_id=2, **WIDE)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def in_own_process(folder: Path, job: str, *, exact: bool) -> dict[str, float]:
    """Runs `measure` in a fresh interpreter."""
    environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": "65536"} if exact else {})}
    command = [sys.executable, "-m", "benchmarks.plan_memory", "--child", str(folder), "--job", job]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(folder: Path, job: str) -> dict[str, float]:
    """Loads a model, does a few steps of a job, and compares the peak with the estimate."""
    import torch

    from tests.tiny_models import save_tiny_model
    from xling.models.loading import compute_dtype, load_tokenizer

    with TemporaryDirectory(prefix="xling-") as tiny:
        save_tiny_model("llama", Path(tiny))
        run(Path(tiny), load_tokenizer(Path(tiny)), job, length=16)
    tokenizer = load_tokenizer(folder)  # its vocabulary may take hundreds of megabytes
    before = held()
    highest = run(folder, tokenizer, job, length=LENGTH)
    setting = Setting(
        value_bytes=compute_dtype().itemsize, r=R, mask_bytes=1 if torch.cuda.is_available() else 4
    )
    sizes = model_sizes(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if job in ("training", "checkpointed"):
        estimate = training_memory(
            sizes, setting, rows=ROWS, length=LENGTH, gradient_checkpointing=job == "checkpointed"
        )
    else:
        estimate = scoring_memory(
            sizes,
            setting,
            batch_tokens=BATCH_TOKENS,
            length=LENGTH,
            cached_tokens=4 * BATCH_TOKENS if job == "permuted" else 0,
        )
    return {"estimate": estimate.total, "measured": highest - before}


def run(folder: Path, tokenizer, job: str, *, length: int) -> int:
    """Does a job with one model, and lets go of it; the most bytes in use after it was loaded."""
    from xling.models.adapters import attach_lora, chosen_modules
    from xling.models.loading import load_base

    prompts = [text_of(tokenizer, length, number) for number in range(12)]
    model = load_base(folder)
    for parameter in model.parameters():  # out of the mapped file, into memory of their own
        parameter.data = parameter.data.clone()
    adapted = attach_lora(model, modules=chosen_modules(model), r=R, alpha=32, dropout=0.0, seed=0)
    gc.collect()
    with peak() as highest:
        if job in ("training", "checkpointed"):
            train(adapted, tokenizer, prompts[: 2 * ROWS], checkpointed=job == "checkpointed")
        else:
            score(adapted, tokenizer, prompts, variants=job == "permuted")
    del model, adapted
    gc.collect()
    give_back()
    return highest[0]


def text_of(tokenizer, length: int, number: int) -> str:
    """A text of so many tokens."""
    text = "".join(f" {word % 10}" for word in range(number, number + length))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: length - 1]
    return tokenizer.decode(ids)


def train(model, tokenizer, prompts: list[str], *, checkpointed: bool) -> None:
    from xling.study.settings import TrainingSettings
    from xling.training.loop import Example, TrainingSet, train_adapter

    examples = [Example(prompt, 1) for prompt in prompts]
    with TemporaryDirectory(prefix="xling-") as folder:
        train_adapter(
            model,
            tokenizer,
            TrainingSet(examples, [5, 6, 7, 8], add_special_tokens=True),
            TrainingSettings(
                batch_size=ROWS,
                micro_batch_size=ROWS,
                learning_rate=1e-4,
                gradient_checkpointing=checkpointed,
                checkpoints=1,
            ),
            seed=0,
            folder=Path(folder),
        )


def score(model, tokenizer, prompts: list[str], *, variants: bool) -> None:
    from xling.scoring import InProcessEngine

    model.eval()
    engine = InProcessEngine(model, tokenizer, add_special_tokens=True, batch_tokens=BATCH_TOKENS)
    if variants:
        engine.score_variants([[f"{prompt}{end}" for end in "abcd"] for prompt in prompts])
    else:
        engine.score(prompts)


def held() -> int:
    """Bytes in use now."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    return status("RssAnon")


def status(key: str) -> int:
    """Bytes of one line of the process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status does not say {key}")


def give_back() -> None:
    """Hands memory that loading used and freed back to the system."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most bytes in use within the block, as the only element of a list."""
    import torch

    highest = [0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield highest
        highest[0] = int(torch.cuda.max_memory_allocated())
        return
    give_back()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    yield highest
    # Mapped files are libraries and pages of the checkpoint, which the system may drop.
    highest[0] = status("VmHWM") - status("RssFile")


if __name__ == "__main__":
    main()
