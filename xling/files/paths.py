"""Folders: of the package, and of what it keeps on this machine."""

from __future__ import annotations

import os
from pathlib import Path

# The checkout, or the folder that a logged adapter brings: `xling` lies in it.
ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``$XDG_CACHE_HOME/xling``.

    The default is ``~/.cache/xling``.
    """
    return _xdg("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """Return the folder of results before they are logged: ``$XDG_STATE_HOME/xling``.

    The default is ``~/.local/state/xling``.
    """
    return _xdg("XDG_STATE_HOME", ".local/state")


def _xdg(variable: str, default: str) -> Path:
    base = os.environ.get(variable, "")
    return (Path(base) if base else Path.home() / default) / "xling"
