"""Engines over the small server of `tests.serving`, and what they are asked."""

from __future__ import annotations

from xling.scoring.server import ServedModel, ServerEngine, Transport, find_served_models
from xling.study.settings import ServerSettings

ENDING = "\nAnswer: ("
PROMPTS = [f"{'Words of a text. ' * (1 + n % 4)}Number {n}?{ENDING}" for n in range(6)]
CHOICES = [[f"the {n} first", "second", "בית", f"a fourth {n}"] for n in range(6)]


def settings_of(server, **changes) -> ServerSettings:
    values = {"url": server.url, "retries": 3, "timeout": 20.0, "concurrency": 4}
    return ServerSettings(**(values | changes))


def engine_of(server, kept=None, adapter="", special=True, **changes) -> ServerEngine:
    settings = settings_of(server, **changes)
    transport = Transport(settings)
    served = find_served_models(transport, model="", study_model="any")
    model = ServedModel(served, adapter, context=512, cache_file=kept)
    return ServerEngine(
        transport, settings, model, server.tokenizer, add_special_tokens=special, ending=ENDING
    )
