"""The HTTP side of `tests.serving`."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.serving import TinyServer


class Refused(Exception):
    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def handler(tiny: TinyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: apart they wait for each other

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answered(self.show)

        def do_POST(self) -> None:
            self.answered(self.take)

        def answered(self, work) -> None:
            tiny.seen.paths.append(self.path)
            length = int(self.headers.get("content-length") or 0)
            content = self.rfile.read(length)
            try:
                self.check_key()
                work(json.loads(content) if content else {})
            except Refused as refused:
                self.send(refused.status, {"error": {"message": str(refused)}}, refused.headers)

        def check_key(self) -> None:
            given = self.headers.get("authorization", "").removeprefix("Bearer ")
            tiny.seen.keys.add(given)
            if tiny.behaviour.key and given != tiny.behaviour.key:
                said = f": {given}" if tiny.behaviour.says_key else ""
                raise Refused(401, f"Incorrect API key provided{said}")

        def show(self, _: dict[str, Any]) -> None:
            if self.path != "/v1/models":
                raise Refused(404, "no such page")
            cards = [
                {"id": name, "object": "model", "owned_by": tiny.behaviour.owner}
                | ({"parent": tiny.base} if name != tiny.base else {})
                for name in tiny.models
            ]
            self.send(200, {"object": "list", "data": cards})

        def take(self, body: dict[str, Any]) -> None:
            if self.path.endswith("load_lora_adapter"):
                return self.load(body)
            if self.path != "/v1/completions":
                raise Refused(404, "no such page")
            seen = tiny.seen  # answers that nobody waits for any more outlive a reset
            with tiny.lock:
                seen.bodies.append(body)
                seen.running += 1
                seen.most_running = max(seen.most_running, seen.running)
                faults = tiny.behaviour.faults
                fault = faults.pop(0) if faults else tiny.behaviour.fault_always
            try:
                content = self.complete(body, fault)
            finally:  # before the answer is out: the next request may follow at once
                with tiny.lock:
                    seen.running -= 1
            if fault == "drop":
                self.close_connection = True
                return
            self.send(200, content, fault=fault)

        def complete(self, body: dict[str, Any], fault: str) -> dict[str, Any]:
            does = tiny.behaviour
            time.sleep(does.delay)
            if fault == "429":
                raise Refused(429, "too many", **{"Retry-After": "0.2"})
            if fault == "500":
                raise Refused(500, "broken")
            if fault == "slow":
                time.sleep(3)
            if body["model"].rpartition(":")[2] not in tiny.models:
                raise Refused(404, f"The model `{body['model']}` does not exist.")
            if body.get("echo") and not does.echo:
                raise Refused(400, "Only no echo is supported")
            known = {"model", "prompt", "max_tokens", "temperature", "top_p", "logprobs", "echo"}
            known |= {"stop", "seed", "frequency_penalty", "presence_penalty"}
            if does.strict and set(body) - known:
                raise Refused(400, f"Unrecognized request arguments: {set(body) - known}")
            return tiny.complete(body)

        def load(self, body: dict[str, Any]) -> None:
            if not tiny.behaviour.loads or not self.path.startswith("/v1/"):
                raise Refused(404, "Not Found")
            if "unload" in self.path:
                del tiny.models[body["lora_name"]]
            else:
                tiny.add_adapter(body["lora_name"], Path(body["lora_path"]))
            self.reply(200, b"Success", {})

        def send(self, status: int, content: Any, headers=None, fault: str = "") -> None:
            text = json.dumps(content).encode()
            length = len(text)
            if fault in ("torn", "cut"):
                text = text[: len(text) // 2]
            if fault != "cut":
                length = len(text)
            self.close_connection = fault == "cut"
            self.reply(status, text, headers or {}, length)

        def reply(self, status: int, text: bytes, headers: dict[str, str], length=None) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(text) if length is None else length))
            self.end_headers()
            self.wfile.write(text)

    return Handler
