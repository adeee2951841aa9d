"""Scoring over an OpenAI-compatible server: vLLM, SGLang, llama.cpp.

`transport.py` alone sends requests; `capabilities.py` finds out what a server can do. No weights
are loaded here, only the tokenizer is used.
"""

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
