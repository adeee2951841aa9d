"""Scoring over an OpenAI-compatible server: vLLM, SGLang, llama.cpp."""

from __future__ import annotations

from xling.scoring.server.engine import ServerEngine
from xling.scoring.server.served_models import (
    ServedModel,
    ServedModels,
    find_served_models,
    served_adapter,
)
from xling.scoring.server.transport import ServerError, Transport

__all__ = [
    "ServedModel",
    "ServedModels",
    "ServerEngine",
    "ServerError",
    "Transport",
    "find_served_models",
    "served_adapter",
]
