"""A small completions server over tiny models, with faults that can be switched on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.serving_http import Refused, handler


@dataclass
class Behaviour:
    """What the server can do, and what goes wrong next.

    `faults` are used up one a completion: "429", "500", "slow", "torn" (truncated JSON, a whole
    HTTP body), "cut" (less than the promised length), "drop" (no answer).
    """

    takes_tokens: bool = True
    by_id: bool = False
    echo: bool = True
    echo_shift: int = 0
    logprobs: bool = True
    form: str = "legacy"
    most_listed: int = 20
    text_gets_first: bool = True
    extra_first: bool = False
    counts: bool = True
    strict: bool = False
    hide_end: bool = False
    key: str = ""
    says_key: bool = False
    loads: bool = False
    delay: float = 0.0
    owner: str = "tests"
    faults: list[str] = field(default_factory=list)
    fault_always: str = ""


@dataclass
class Seen:
    """What was asked of the server."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0


class TinyServer:
    """Serves tiny models by name; the first is the base, the others are adapters on it."""

    def __init__(self, folder: Path, adapters: dict[str, Path] | None = None) -> None:
        from xling.models.loading import load_base, load_tokenizer

        self.folder = folder
        self.tokenizer = load_tokenizer(folder)
        self.base = "tiny"
        self.models = {self.base: load_base(folder, four_bit=False)}
        for name, path in (adapters or {}).items():
            self.add_adapter(name, path)
        self.behaviour = Behaviour()
        self.seen = Seen()
        self.lock = threading.Lock()
        self.computing = threading.Lock()
        self.url = ""
        self.last: tuple[Any, Any] = (None, None)

    def add_adapter(self, name: str, path: Path) -> None:
        from xling.models.adapters import load_adapter
        from xling.models.loading import load_base

        self.models[name] = load_adapter(load_base(self.folder, four_bit=False), path).eval()

    def reset(self, **behaviour: Any) -> None:
        self.behaviour, self.seen = Behaviour(**behaviour), Seen()

    @contextmanager
    def running(self) -> Iterator[TinyServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def logprobs(self, name: str, ids: list[int]):
        """Of each position's next token; shape (length, vocabulary)."""
        import torch

        with self.computing, torch.inference_mode():
            asked = (name, tuple(ids))
            if asked != self.last[0]:  # a request reads the same positions twice
                logits = self.models[name](input_ids=torch.tensor([ids])).logits[0]
                self.last = asked, logits.double().log_softmax(dim=-1)
            return self.last[1]

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer to a request for a completion."""
        does, name = self.behaviour, body["model"].rpartition(":")[2]
        prompt = self.read_prompt(body["prompt"])
        written, reason = self.write(name, prompt, body)
        listed = min(body.get("logprobs") or 0, does.most_listed)
        logprobs = None
        if does.logprobs and body.get("logprobs") is not None:
            ids = prompt + written
            rows = self.logprobs(name, ids[:-1])
            first = 0 if body.get("echo") else len(prompt)
            places = [self.place(rows, ids, at, listed, body) for at in range(first, len(ids))]
            logprobs = self.legacy(places) if does.form == "legacy" else {"content": places}
        skip = body.get("skip_special_tokens", True)
        text = self.tokenizer.decode(written, skip_special_tokens=skip)
        stop = (body.get("stop") or [None])[0]
        if stop and stop in text:
            text, reason = text.split(stop)[0], "stop"
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs}
        answer: dict[str, Any] = {"object": "text_completion", "choices": [choice]}
        if does.counts:
            answer["usage"] = {"prompt_tokens": len(prompt), "completion_tokens": len(written)}
        return answer

    def read_prompt(self, prompt: str | list[int]) -> list[int]:
        does = self.behaviour
        if isinstance(prompt, list):
            if not does.takes_tokens:
                raise Refused(500, "prompt: Input should be a valid string")
            ids = list(prompt)
        else:
            ids = self.tokenizer(prompt, add_special_tokens=does.text_gets_first)["input_ids"]
        return [self.tokenizer.bos_token_id, *ids] if does.extra_first else ids

    def write(self, name: str, prompt: list[int], body: dict[str, Any]) -> tuple[list[int], str]:
        import torch

        ids: list[int] = list(prompt)
        stop = (body.get("stop") or [None])[0]
        for _ in range(body["max_tokens"]):
            row = self.logprobs(name, ids)[-1]
            if body["temperature"]:
                generator = torch.Generator().manual_seed(body.get("seed", 0))
                token = int(torch.multinomial(row.exp(), 1, generator=generator))
            else:
                token = int(row.argmax())
            if token == self.tokenizer.eos_token_id or (
                self.behaviour.hide_end and body["max_tokens"] == 1
            ):
                return ids[len(prompt) :], "stop"
            ids.append(token)
            if stop and stop in self.tokenizer.decode(ids[len(prompt) :]):
                return ids[len(prompt) :], "stop"
        return ids[len(prompt) :], "length"

    def place(self, rows, ids: list[int], at: int, listed: int, body: dict[str, Any]):
        """One position in the chat form."""
        if at == 0:
            return {"token": self.named(ids[0], body), "logprob": None, "top_logprobs": None}
        row = rows[max(0, at - 1 - self.behaviour.echo_shift * bool(body.get("echo")))]
        wanted = row.topk(min(listed, len(row))).indices.tolist()
        if self.behaviour.by_id and body.get("logprob_token_ids") and not body.get("echo"):
            wanted = [int(row.argmax()), *body["logprob_token_ids"]]
        return {
            "token": self.named(ids[at], body),
            "logprob": float(row[ids[at]]),
            "top_logprobs": [
                {"token": self.named(each, body), "id": each, "logprob": float(row[each])}
                for each in dict.fromkeys(wanted)
            ],
        }

    def named(self, token: int, body: dict[str, Any]) -> str:
        if self.behaviour.by_id and body.get("return_tokens_as_token_ids"):
            return f"token_id:{token}"
        return self.tokenizer.decode([token])

    def legacy(self, places: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "tokens": [each["token"] for each in places],
            "token_logprobs": [each["logprob"] for each in places],
            "top_logprobs": [
                None
                if each["top_logprobs"] is None
                else {top["token"]: top["logprob"] for top in each["top_logprobs"]}
                for each in places
            ],
        }
