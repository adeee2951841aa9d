"""What the tools beside which this package is measured need: the one list of their environments."""

from __future__ import annotations

from pathlib import Path

CONDA = Path(__file__).resolve().parent.parent / "conda.yaml"
# The same as here, so that a difference in speed is the tools' own.
SHARED = ("torch", "transformers", "tokenizers", "numpy", "datasets", "accelerate", "safetensors")
OTHERS = {
    "lm-eval": ("lm_eval[hf]==0.4.13",),
    "trl": ("trl==1.16.0", "peft"),
}


def pins() -> dict[str, str]:
    """Exact requirement of each package of conda.yaml, by name."""
    found = {}
    for line in CONDA.read_text(encoding="utf-8").splitlines():
        text = line.strip().removeprefix("- ")
        if "==" in text:
            found[text.partition("==")[0]] = text
    return found


def requirements(name: str) -> list[str]:
    """Requirements of a tool's environment; names without a version are pinned as in conda.yaml.

    Raises:
        ValueError: no such tool.
    """
    if name not in OTHERS:
        raise ValueError(f"no tool {name!r} in benchmarks/requirements.py: {', '.join(OTHERS)}")
    pinned = pins()
    return [pinned.get(each, each) for each in (*SHARED, *OTHERS[name])]
