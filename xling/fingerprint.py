"""A hash of all that decides a result, so that a finished run is reused and not repeated."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from xling.requirements import DECIDING_PACKAGES

# The code that decides a run's result; tracking and command lines do not.
DECIDING_CODE = (
    "arms.py",
    "chat.py",
    "data",
    "distributed",
    "execution",
    "models",
    "planning/fits.py",
    "prompts.py",
    "reasoning.py",
    "records.py",
    "record_metrics.py",
    "record_schema.py",
    "routing",
    "scoring",
    "training.py",
    "training_steps.py",
)


def fingerprint(content: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of settings, of the deciding code and of the deciding packages.

    Args:
        content: whatever else decides the result: data, weights, settings, seed; JSON types.
    """
    whole = {"content": content, "code": code_sha256(), "packages": package_versions()}
    text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_sha256() -> str:
    """Hexadecimal sha256 of the source files under `DECIDING_CODE`."""
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for name in DECIDING_CODE:
        path = root / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.suffix in (".py", ".yaml"):
                digest.update(f"{file.relative_to(root)}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def package_versions() -> dict[str, str]:
    """Installed version of each deciding package."""
    return {name: importlib.metadata.version(name) for name in DECIDING_PACKAGES}
