"""Requests to a server: the key, the limit on what is under way, and further tries."""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from xling.messages.secrets import MASK, hide, without_secrets

if TYPE_CHECKING:
    import openai

    from xling.study.settings import ServerSettings

Job = TypeVar("Job")
Result = TypeVar("Result")

PASSING_STATUSES = (408, 409, 425, 429)
FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED_WAIT = 0.5, 30.0, 120.0
NO_KEY = "none"  # what servers without a key are sent: the client insists on one

logger = logging.getLogger(__name__)


class ServerError(RuntimeError):
    """A server's answer that no further try mends; the message has the server and the remedy.

    Attributes:
        status: HTTP status; 0: there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Response:
    """A server's answer.

    Attributes:
        body: its JSON.
        tries: requests that it took.
    """

    body: dict[str, Any]
    tries: int


class Transport:
    """Talks to one server; several threads may use it at once.

    The key is read from the environment here and appears in no message: what a server says of it is
    masked.

    Args:
        settings: address, key variable, and limits.
    """

    def __init__(self, settings: ServerSettings) -> None:
        from openai import OpenAI

        self.url = settings.url
        self._settings = settings
        self._key = os.environ.get(settings.key_variable, "").strip()
        hide(self._key)
        self._thread = threading.local()  # of `map`: whether its work is still wanted
        self._client: OpenAI = OpenAI(
            base_url=settings.url,
            api_key=self._key or NO_KEY,
            # Tries are counted and waited for here: the client takes a torn body for an answer.
            max_retries=0,
        )

    @property
    def root(self) -> str:
        """The address without ``/v1``."""
        return self.url.removesuffix("/v1")

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    def get(
        self, path: str, *, retries: int | None = None, timeout: float | None = None
    ) -> Response:
        """Send a GET; see `post`."""
        return self._try("GET", path, None, retries, timeout=timeout)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        retries: int | None = None,
        plain: bool = False,
        patient: bool = True,
        timeout: float | None = None,
    ) -> Response:
        """Send a POST.

        Args:
            path: after the address, or a whole address.
            body: JSON types.
            retries: further tries at most; None: as the settings say.
            plain: whether the answer need not be JSON; it is then left unread.
            patient: False: an internal error (500) gets one further try only; some servers answer
                so to a request whose form they do not know.
            timeout: seconds that each try may take at most; None: as the settings say.

        Raises:
            ServerError: the server refuses the request, or all tries failed.
        """
        return self._try("POST", path, body, retries, plain=plain, patient=patient, timeout=timeout)

    def map(
        self, work: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> Iterator[tuple[int, Result]]:
        """Yield results with their jobs' positions, as they come; `concurrency` jobs at once.

        After a failure, or if the caller stops, jobs that wait are dropped; requests that are under
        way may take minutes, and nothing waits for them.
        """
        if not jobs:
            return
        stopped = threading.Event()
        failures: list[Exception] = []

        def run(numbered: tuple[int, Job]) -> tuple[int, Result]:
            self._thread.stopped = stopped
            if failures or stopped.is_set():  # whichever result comes first, it names the cause
                raise failures[0] if failures else InterruptedError("the caller has stopped")
            try:
                return numbered[0], work(numbered[1])
            except Exception as error:
                failures.append(error)
                raise

        # Threads of `concurrent.futures` would be waited for when the interpreter ends; these not.
        with ThreadPool(min(self._settings.concurrency, len(jobs))) as pool:
            try:
                yield from pool.imap_unordered(run, enumerate(jobs))
            finally:
                stopped.set()

    def _try(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        retries: int | None,
        *,
        plain: bool = False,
        patient: bool = True,
        timeout: float | None = None,
    ) -> Response:
        """Try until there is an answer, or none is to be expected."""
        retries = (
            self._settings.retries if retries is None else min(retries, self._settings.retries)
        )
        timeout = min(timeout or self._settings.timeout, self._settings.timeout)
        stopped: threading.Event = getattr(self._thread, "stopped", threading.Event())
        tried = 0
        while True:
            tried += 1
            try:
                text = self._once(method, path, body, timeout)
                return Response({} if plain else self._parsed(method, path, text), tried)
            except _PassingError as error:
                allowed = min(retries, 1) if error.status == 500 and not patient else retries
                if tried <= allowed and not stopped.is_set():
                    wait = error.wait if error.wait is not None else _backoff(tried, body)
                    logger.info("%s; trying again in %.1f s", error, wait)
                    if not stopped.wait(wait):
                        continue
                raise ServerError(
                    f"{error} ({tried} tries); see the server's log, or raise "
                    "`server.timeout`, `server.retries`, or lower `server.concurrency`",
                    error.status,
                ) from None

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> str:
        """Send one request, and return the text of its answer.

        Raises:
            _PassingError: a further try may succeed.
            ServerError: none will.
        """
        import openai

        where = self._where(method, path)
        limit = openai.Timeout(timeout, connect=min(30.0, timeout))
        try:
            # `from None` throughout: the library's errors hold the request, and so the key.
            if method == "GET":
                return self._client.get(path, cast_to=str, options={"timeout": limit})
            return self._client.post(path, cast_to=str, body=body, options={"timeout": limit})
        except openai.APITimeoutError:
            raise _PassingError(f"{where}: no answer in {timeout:g} s") from None
        except openai.APIConnectionError as error:
            reason = self._masked(str(error.__cause__ or error))
            raise _PassingError(f"{where}: no connection ({reason})") from None
        except openai.APIStatusError as error:
            raise self._refusal(where, error) from None

    def _parsed(self, method: str, path: str, text: str) -> dict[str, Any]:
        """Parse an answer's JSON; a list becomes ``{"data": …}``."""
        try:
            found = json.loads(text)
        except ValueError:
            where, end = self._where(method, path), self._masked(text)[-60:]
            raise _PassingError(f"{where}: the answer is not whole JSON: …{end!r}") from None
        return found if isinstance(found, dict) else {"data": found}

    def _where(self, method: str, path: str) -> str:
        return f"server {self.url}: {method} {path.removeprefix(self.url)}"

    def _refusal(self, where: str, error: openai.APIStatusError) -> Exception:
        """Return what to raise for an HTTP status that is an error."""
        status = error.status_code
        text = self._masked(error.response.text.strip())[:500] or "nothing"
        message = f"{where}: status {status}; it said: {text}"
        if status in PASSING_STATUSES or status >= 500:
            return _PassingError(message, status, _asked_wait(error.response.headers))
        if status in (401, 403):
            variable = self._settings.key_variable
            state = "is set, but not to a key that it takes" if self._key else "is not set"
            message += (
                f"\nThe key is read from the environment variable {variable}, which {state}; "
                "`server.key_variable` names another"
            )
        return ServerError(message, status)

    def _masked(self, text: str) -> str:
        return without_secrets(text.replace(self._key, MASK) if self._key else text)


class _PassingError(Exception):
    """A failure that may pass; `wait`: seconds that the server asks to be left alone."""

    def __init__(self, message: str, status: int = 0, wait: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header; None where it names none, or a date."""
    try:
        asked = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(asked, LONGEST_ASKED_WAIT) if asked >= 0 else None


def _backoff(tried: int, body: Mapping[str, Any] | None) -> float:
    """Return seconds before the next try: doubled each time, and spread by what is asked."""
    wait = min(FIRST_WAIT * 2.0 ** (tried - 1), LONGEST_WAIT)
    spread = zlib.crc32(f"{body} {tried}".encode()) / 2**32
    return wait * (0.75 + 0.25 * spread)
