"""How a command ends: by a signal, or with a message that tells no secret.

It imports nothing heavy: commands need it before they do anything.
"""

from xling.masking import without_secrets


class Terminated(SystemExit):
    """SIGTERM, raised in the main thread so that a run ends as KILLED with what it has."""


def without_password(text: str) -> str:
    """Text with passwords, keys and tokens masked; see `xling.masking.without_secrets`."""
    return without_secrets(text)
