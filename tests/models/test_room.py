"""The disk is compared with what the hub says of a model, before anything is fetched."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from xling.models import fetch_weights
from xling.models.catalog import Recipe
from xling.models.weights.dequantise import dequantised_path
from xling.models.weights.disk_space import check_disk_space

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RECIPE = Recipe("native", repository="owner/native", revision=COMMIT, precision="mxfp4")
PETABYTE = 10**15


class Hub(BaseHTTPRequestHandler):
    """Tells of a repository with one file of weights, but does not give it."""

    size = PETABYTE
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        files = [
            {"type": "file", "path": "config.json", "size": 10, "oid": "1" * 40},
            {"type": "file", "path": "model.safetensors", "size": self.size, "oid": "2" * 40},
            {"type": "file", "path": "other/model.safetensors", "size": 9**20, "oid": "3" * 40},
        ]
        body = json.dumps(files).encode()
        tree = f"/tree/{COMMIT}" in self.path
        self.send_response(200 if tree else 404)
        self.send_header("Content-Length", str(len(body) if tree else 0))
        self.end_headers()
        self.wfile.write(body if tree else b"")

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        weights = self.path.endswith(".safetensors")
        self.send_response(200)
        self.send_header("ETag", f'"{"2" * 40}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(self.size if weights else 10))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Hub, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Hub
        server.shutdown()
        thread.join()


def test_model_that_the_disk_cannot_hold_is_refused_before_it_is_fetched(hub, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"needs 1000000\.0 GB to be fetched and at least 3000000\.0 GB .*HF_HOME and XDG_C",
    ):
        fetch_weights(RECIPE)
    assert not list(tmp_path.rglob("*.incomplete"))


def test_weights_that_are_dequantised_already_need_no_room(hub, monkeypatch):
    monkeypatch.setattr(hub, "size", 10**6)
    monkeypatch.setattr("xling.models.weights.disk_space.GROWTH", {"mxfp4": 10.0**9})
    with pytest.raises(ValueError, match=r"0\.0 GB to be fetched and at least 1000000\.0 GB"):
        check_disk_space(RECIPE, ["*"], ["*/*"])
    dequantised_path(f"hub:owner/native@{COMMIT}").mkdir(parents=True)
    check_disk_space(RECIPE, ["*"], ["*/*"])


def test_hub_that_does_not_answer_is_noted(hub, monkeypatch, caplog):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.INFO, "xling.models.weights.disk_space"):
        check_disk_space(RECIPE, ["*"], ["*/*"])
    assert "owner/native: the disk space that it takes is not known" in caplog.text
    assert not hub.asked
