"""Figures that are made and not drawn: for tests of all that lies around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


def save_picture(self: Figure, target: Any, **settings: Any) -> None:
    """Write the same small picture for any figure: drawing one takes up to a second."""
    if hasattr(target, "write"):
        target.write(PICTURE)
    else:
        Path(target).write_bytes(PICTURE)
