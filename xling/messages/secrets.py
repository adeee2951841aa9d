"""Passwords and keys are taken out of text that is shown or logged.

It imports nothing heavy: commands need it before they do anything.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import quote, unquote

MASK = "***"
# Shorter values are words that occur in many texts.
SHORTEST = 6

_NAMES = r"token|password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|credential"
# Variables that hold a secret, but not those that say where one lies.
_SECRET_VARIABLE = re.compile(
    rf"(^|_)({_NAMES}|key|pass|auth)s?(_|$)(?!.*(file|path|dir|name|url|uri|sock)$)", re.IGNORECASE
)
_ADDRESS = re.compile(r"://[^\s/@:?#]*:(\S+)@")
_IN_ADDRESSES = (
    # user:password@ of an address, whatever the password holds; also one that lost a slash.
    # Bounded, or a text of nothing but addresses would take minutes.
    (
        re.compile(
            r"""((?:\b[a-z][a-z0-9+.-]{0,30}:/{1,3}|//))[^\s/@:?#"'<>]{0,200}:[^\s"'<>]{0,1000}@""",
            re.I,
        ),
        r"\1***@",
    ),
    (re.compile(r"""//[^/@\s"'<>]{0,2000}@"""), r"//***@"),
)
_ANYWHERE = (
    (
        re.compile(rf"""([?&;][\w.-]*(?:{_NAMES}|key|sig|signature|auth)=)[^&;\s"'<>]+""", re.I),
        r"\1***",
    ),
    (re.compile(rf"""((?<![\w-])(?:\w+[_-])?(?:{_NAMES})=)[^&;,\s"'<>)]+""", re.I), r"\1***"),
    (
        re.compile(r"""(authorization["']?\s*[:=]\s*["']?)(?:\w+\s+)?[^\s"',}]+""", re.I),
        r"\1***",
    ),
    (re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.I), r"\1***"),
    # Keys that are known by their form: Hugging Face, OpenAI, GitHub, GitLab, Amazon.
    (
        re.compile(
            r"\b(hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
            r"|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16})"
        ),
        MASK,
    ),
)
_hidden: set[str] = set()


def without_secrets(text: str) -> str:
    """Return a text with its passwords, keys and tokens masked.

    Masked are the values of environment variables that are called like a secret, the passwords of
    addresses in the environment, values given to `hide`, and what is known by its form: user names
    and passwords of addresses, secrets of a query or of ``key=value``, authorization headers, keys
    of well-known services.
    """
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern, replacement in (*_IN_ADDRESSES, *_ANYWHERE) if "@" in text else _ANYWHERE:
        text = pattern.sub(replacement, text)
    return text


def hide(secret: str) -> None:
    """Have a value masked from now on in this process, however its variable is called."""
    if len(secret) >= SHORTEST:
        _hidden.add(secret)


def mask_output() -> None:
    """Mask secrets in what this process's log writes, and in the traceback that ends it.

    Called after the log is set up.
    """
    for handler in logging.getLogger().handlers:
        if not isinstance(handler.formatter, MaskingFormatter):
            handler.setFormatter(MaskingFormatter(handler.formatter))
    sys.excepthook = _show_masked


def _show_masked(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))


class MaskingFormatter(logging.Formatter):
    """A formatter that masks secrets in messages of the log and in their tracebacks.

    Args:
        inner: what makes the text; None: the message alone, with its traceback.
    """

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, masked."""
        return without_secrets(self._inner.format(record))


def _secrets() -> Iterator[str]:
    """Yield every secret that is known, also as it is written within an address."""
    for secret in (*_hidden, *_of_environment()):
        if len(secret) >= SHORTEST:
            yield from {secret, quote(secret), quote(secret, safe="")}


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if name in ("PWD", "OLDPWD"):
            continue  # the shell's working folder
        if _SECRET_VARIABLE.search(name):
            yield value.strip()
        elif "@" in value and (found := _ADDRESS.search(value)):
            yield from (found[1], unquote(found[1]))
