"""Scoring: prompts in, the log-probabilities of four options out."""

from xling.scoring.in_process import InProcessEngine
from xling.scoring.protocol import Engine, Scores

__all__ = ["Engine", "InProcessEngine", "Scores"]
