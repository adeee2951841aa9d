"""How far a real llama.cpp server's answers are from those of the model in this process.

From the repository's root: `python -m benchmarks.server_agreement`.

Makes an environment of its own with `llama-cpp-python[server]` (compiled from source where there is
no wheel: minutes), starts its server on the embedded Gemma 3 270M's GGUF file, and scores the same
items of the embedded mini set twice: through `ServerEngine`, and through `InProcessEngine` on the
same file's weights, dequantised to float32 and not quantised again. Prints the differences of the
log-probabilities of labels and of cloze answers, the share of equal predictions, of labels of which
the server gave only a bound, and of equal continuations, and requests a second.

The two are not the same arithmetic: llama.cpp multiplies four-bit weights by activations that it
rounds to eight bits. With `--float` the server gets the same weights as float32, and what remains
is the difference of the engines. `--top-logprobs` decides how often a label is missing from the
server's list and is asked for by itself. llama-cpp-python sorts the whole vocabulary in Python for
each token that it gives log-probabilities of, which is most of the time of cloze scoring.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests

from xling.data import Item, build_mini
from xling.files.atomic import atomic_write
from xling.files.paths import cache_folder
from xling.models import catalog, locate_model
from xling.models.weights.packaged import packaged_file
from xling.prompts import PromptFormat, render_cloze_prompts, render_prompts
from xling.scoring import Engine, InProcessEngine, Sampling
from xling.scoring.server import ServedModel, ServerEngine, Transport, find_served_models
from xling.study.settings import ServerSettings

PACKAGE = "llama-cpp-python[server]==0.3.36"
MODEL = "gemma3-270m"


def environment(folder: Path) -> Path:
    """Path of a Python that has the server; made there on first use."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
    return python


def float_copy(source: Path, target: Path) -> Path:
    """The same GGUF file with every tensor as float32; made on first use."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize

    if target.is_file():
        return target
    reader = GGUFReader(source)
    with atomic_write(target) as temporary:
        writer = GGUFWriter(temporary, reader.get_field("general.architecture").contents())
        for name, field in reader.fields.items():
            if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
                continue
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
        for tensor in reader.tensors:
            values = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type))
            writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(python: Path, weights: Path, threads: int) -> Iterator[str]:
    """Address of a server of these weights, stopped after the block."""
    port = free_port()
    command = [str(python), "-m", "llama_cpp.server", "--model", str(weights)]
    command += ["--port", str(port), "--logits_all", "true", "--n_ctx", "1024"]
    command += ["--n_threads", str(threads), "--n_threads_batch", str(threads)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--verbose", "false"], stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/v1", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        try:
            if requests.get(f"{url}/models", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise RuntimeError("the server did not start in five minutes")


def items_of(languages: Sequence[str], count: int) -> list[Item]:
    data = build_mini(languages=list(languages), difficulties=[1])
    return [item for code in languages for item in data.items[code][:count]]


def difference(name: str, first: np.ndarray, second: np.ndarray) -> None:
    gap = np.abs(first - second)
    print(
        f"{name}: |difference| largest {gap.max():.4f}, mean {gap.mean():.4f} nats; predictions "
        f"equal {np.mean(first.argmax(axis=1) == second.argmax(axis=1)):.3f} of {len(first)}"
    )


def compare_labels(server: Engine, local: Engine, items: Sequence[Item]) -> None:
    prompts = render_prompts(items, PromptFormat(), None)
    start = time.perf_counter()
    theirs = server.score(prompts, description="labels, server")
    seconds = time.perf_counter() - start
    ours = local.score(prompts)
    difference("labels", theirs.logprobs, ours.logprobs)
    print(
        f"labels: answer mass {theirs.answer_mass.mean():.3f} and {ours.answer_mass.mean():.3f}; "
        f"bounded {theirs.censored.mean():.3f}; {theirs.tries.sum()} requests, "
        f"{theirs.tries.sum() / seconds:.2f} a second"
    )


def compare_cloze(server: Engine, local: Engine, items: Sequence[Item]) -> None:
    prompts = render_cloze_prompts(items, PromptFormat(), None)
    choices = [item.answers for item in items]
    theirs = server.score_choices(prompts, choices, description="cloze, server")
    ours = local.score_choices(prompts, choices)
    difference("cloze, a token", theirs.per_token, ours.per_token)
    print(f"cloze: priors that the server does not give: {np.isnan(theirs.prior).mean():.3f}")


def compare_texts(server: Engine, local: Engine, items: Sequence[Item], tokens: int) -> None:
    prompts = [item.flores_passage.rstrip() for item in items]
    keys = [f"{item.dialect}/{item.item_id}" for item in items]
    written = [
        {
            key: made.text
            for batch in engine.generate(prompts, keys, Sampling(tokens))
            for key, made in batch.items()
        }
        for engine in (server, local)
    ]
    shared = [common(written[0][key], written[1][key]) for key in keys]
    equal = np.mean([written[0][key] == written[1][key] for key in keys])
    print(
        f"greedy continuations of {tokens} tokens: equal {equal:.3f} of {len(keys)}; the same up "
        f"to {np.mean(shared):.2f} of their letters"
    )


def common(first: str, second: str) -> float:
    """Share of the shorter text that both begin with."""
    length = min(len(first), len(second))
    same = next((at for at in range(length) if first[at] != second[at]), length)
    return same / max(length, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--languages", nargs="+", default=["eng_Latn", "arb_Arab", "heb_Hebr"])
    parser.add_argument("--items", type=int, default=16, help="of each language")
    parser.add_argument("--cloze-items", type=int, default=2, help="of all languages together")
    parser.add_argument("--texts", type=int, default=8, help="continuations, of all languages")
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--top-logprobs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--environment", type=Path, default=cache_folder() / "llama-cpp-python")
    parser.add_argument("--float", action="store_true", help="serve the weights as float32")
    arguments = parser.parse_args()
    weights = packaged_file(catalog()[MODEL].weights)
    if arguments.float:
        weights = float_copy(weights, cache_folder() / "float32" / weights.name)
    python = environment(arguments.environment)
    opened = locate_model(MODEL, quantise="none").open()
    local = InProcessEngine(opened.model, opened.tokenizer, add_special_tokens=True)
    items = items_of(arguments.languages, arguments.items)
    step = max(1, len(items) // max(arguments.texts, arguments.cloze_items, 1))
    with running_server(python, weights, arguments.threads) as url:
        settings = ServerSettings(
            url=url, concurrency=2, retries=1, top_logprobs=arguments.top_logprobs
        )
        transport = Transport(settings)
        served = find_served_models(transport, model="", study_model=MODEL)
        server = ServerEngine(
            transport,
            settings,
            ServedModel(served, context=1024),
            opened.tokenizer,
            add_special_tokens=True,
            ending=PromptFormat().answer_prefix,
        )
        print(f"{PACKAGE}: {server.capabilities.answers}; top {arguments.top_logprobs}", flush=True)
        compare_labels(server, local, items)
        if arguments.texts:
            compare_texts(server, local, items[::step][: arguments.texts], arguments.max_tokens)
        if arguments.cloze_items:
            compare_cloze(server, local, items[::step][: arguments.cloze_items])


if __name__ == "__main__":
    sys.exit(main())
