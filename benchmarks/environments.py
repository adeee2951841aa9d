"""Virtual environments of the tools beside which this package is measured."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.side_by_side import LAST_LINES, ROOT

ENVIRONMENTS = ROOT / "benchmarks" / ".environments"


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Python of a virtual environment that has these requirements; made on first use.

    Args:
        name: begins its folder's name; a hash of the requirements and of Python's version ends it.
        requirements: as pip takes them.

    Returns:
        Path of its interpreter.

    Raises:
        RuntimeError: pip failed; the message ends with what it said. Nothing half made is left.
    """
    folder = environment_folder(name, requirements)
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.is_file():
        _make_environment(folder, requirements)
    if not (folder / "freeze.txt").is_file():
        frozen = _quietly([str(python), "-m", "pip", "freeze", "--all"])
        (folder / "freeze.txt").write_text(frozen, encoding="utf-8")
    return python


def frozen_hash(name: str, requirements: Sequence[str]) -> str:
    """First 12 digits of the SHA-256 of all versions in an environment; empty: not made yet."""
    listed = environment_folder(name, requirements) / "freeze.txt"
    return hashlib.sha256(listed.read_bytes()).hexdigest()[:12] if listed.is_file() else ""


def _make_environment(folder: Path, requirements: Sequence[str]) -> None:
    """Makes it under another name, so that what has its name is whole."""
    making = folder.with_name(f"making-{folder.name}-{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    print(f"making the environment {folder.name} (once; minutes)", file=sys.stderr, flush=True)
    try:
        # As a process: a venv made from within another takes the outer one's interpreter.
        _quietly([sys.executable, "-m", "venv", str(making)])
        _quietly([str(making / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements])
        (making / "ready").touch()
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def environment_folder(name: str, requirements: Sequence[str]) -> Path:
    """Where `environment` makes it; another list gets another folder, in whatever order."""
    text = "\n".join([sys.version.split()[0], *sorted(requirements)])
    return ENVIRONMENTS / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _quietly(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{said}")
    return done.stdout
