"""Old name of `xling.training.worker`, for commands that name it; goes with version 0.3."""

from __future__ import annotations

from xling.training.worker import run

if __name__ == "__main__":
    run()
