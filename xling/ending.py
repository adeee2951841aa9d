"""How a command ends: by a signal, or with a message that tells no secret.

It imports nothing heavy: commands need it before they do anything.
"""

import re


class Terminated(SystemExit):
    """SIGTERM, raised in the main thread so that a run ends as KILLED with what it has."""


def without_password(text: str) -> str:
    """Text with the user names and passwords of its addresses masked."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)
