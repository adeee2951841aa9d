"""Where converted weights and unfinished work lie on disk."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Folder of what can be made again: ``$XDG_CACHE_HOME/xling`` (``~/.cache/xling``)."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """Folder of results before they are logged: ``$XDG_STATE_HOME/xling``.

    The default is ``~/.local/state/xling``.
    """
    return _xdg("XDG_STATE_HOME", ".local/state")


def _xdg(variable: str, default: str) -> Path:
    base = os.environ.get(variable, "")
    return (Path(base) if base else Path.home() / default) / "xling"


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `target` only if the block ends without an error.

    Two processes may make the same folder at once: the first to finish wins, and the other's
    copy is thrown away.

    Raises:
        OSError: the disk is full or read-only; the message names the folder.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write to {target.parent} ({error.strerror}); free the disk or point "
            "XDG_CACHE_HOME and XDG_STATE_HOME at a folder that can be written",
        ) from error
    try:
        yield temporary
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
