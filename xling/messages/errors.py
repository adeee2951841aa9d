"""What a user reads of an error, instead of its traceback.

It imports nothing heavy: commands need it before they do anything.
"""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path

from xling.messages.secrets import without_secrets

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("xling", "analysis", "entrypoints")
# Nobody reads a longer message.
MAX_CHARS = 6000
# A disk that is full, read-only, over quota, or not ours.
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.ENOTDIR)


class Terminated(SystemExit):
    """SIGTERM, raised in the main thread so that a run ends as KILLED with what it has."""


def message_of(error: Exception) -> str:
    """Return an error's own message, where this package wrote it; else also its place.

    Args:
        error: what a command raised.

    Returns:
        The message without passwords. An error that no input should bring about is called a
        defect; memory that ran out is said with the place.
    """
    text, kind, place = str(error).strip(), type(error).__name__, _place_of(error)
    if isinstance(error, MemoryError):
        message = f"memory ran out at {place} ({text or kind}); --debug shows the traceback"
    elif not text or not _is_plain(error):
        message = (
            f"this is a defect of this package: {kind} at {place}{': ' if text else ''}{text}\n"
            "Please report it with what --debug shows (under `mlflow run`: XLING_DEBUG=1)"
        )
    else:
        message = text + _disk_remedy(error)
        if isinstance(error, (ValueError, RuntimeError)) and not _is_ours(error):
            # A library's words need not say what they are about.
            message += f" ({kind} at {place}; --debug shows the traceback)"
    message = without_secrets(message)
    return message if len(message) <= MAX_CHARS else f"{message[:MAX_CHARS]}… (--debug shows all)"


def _is_plain(error: Exception) -> bool:
    """Return whether an error's message is all that a user needs."""
    if isinstance(error, (RecursionError, NotImplementedError)):
        return False
    if isinstance(error, (ValueError, OSError, RuntimeError)):
        return True
    tracking = sys.modules.get("xling.tracking")
    return tracking is not None and isinstance(error, tracking.MlflowException)


def _place_of(error: Exception) -> str:
    """Return file and line of the innermost frame in this package's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{name}:{frame.lineno}" for frame in frames if (name := _own_file(frame))]
    return places[-1] if places else "an unknown place"


def _is_ours(error: Exception) -> bool:
    """Return whether a `raise` of this package made the error; a library's C code has no frame."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames and _own_file(frames[-1]) and (frames[-1].line or "").startswith("raise"))


def _own_file(frame: traceback.FrameSummary) -> str:
    """Return the path of a frame's file in the project; empty if it is not the package's."""
    path = Path(frame.filename)
    if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in ROOMS:
        return ""
    return path.relative_to(ROOT).as_posix()


def _disk_remedy(error: Exception) -> str:
    if getattr(error, "errno", None) not in DISK_ERRORS:
        return ""
    return (
        "\nFree the disk, or point XDG_STATE_HOME, XDG_CACHE_HOME, TMPDIR and "
        "MLFLOW_TRACKING_URI at places that can be written; what was computed before is kept"
    )
