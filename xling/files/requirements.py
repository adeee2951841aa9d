"""The one list of pins, conda.yaml, for those who need a part of it."""

from __future__ import annotations

from functools import cache

import yaml

from xling.files.paths import ROOT

# What decides the numbers of a run: part of its fingerprint.
DECIDING_PACKAGES = ("bitsandbytes", "peft", "torch", "transformers")

# What a served adapter needs, and nothing more.
ADAPTER_PACKAGES = (
    *DECIDING_PACKAGES,
    "accelerate",
    "babel",
    "gguf",
    "huggingface-hub",
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "pyyaml",
    "tqdm",
)


@cache
def pinned_packages() -> dict[str, str]:
    """Return the version of each package in conda.yaml's pip section, in its order.

    Raises:
        ValueError: a line is not an exact pin.
    """
    path = ROOT / "conda.yaml"
    environment = yaml.safe_load(path.read_text(encoding="utf-8"))
    lines = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    pins = {}
    for line in lines:
        name, separator, version = line.partition("==")
        if not separator or not version:
            raise ValueError(f"{path}: {line!r} is not an exact pin (name==version)")
        pins[name] = version
    return pins


def adapter_requirements() -> list[str]:
    """Return the pins of `ADAPTER_PACKAGES`, as pip requirements."""
    pins = pinned_packages()
    return [f"{name}=={pins[name]}" for name in sorted(ADAPTER_PACKAGES)]
