"""What every entry point shares: its options, its log, and how it ends."""

import functools
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click

from xling.ending import Terminated, without_password
from xling.folders import DISK_ERRORS
from xling.settings import ARMS, REASONING, SCORING
from xling.study import Study
from xling.study_files import load_study, parse_study

Command = Callable[..., Any]
DEBUG = "XLING_DEBUG"


class StudyFile(click.ParamType[Study]):
    """A study's name or the path of a study file, read and validated.

    With `logged`, also the name of a study whose run in the tracking store holds its file, as
    simulated and limited studies do.
    """

    name = "study"

    def __init__(self, *, logged: bool = False) -> None:
        self.logged = logged

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Study:
        """Reads the study; a wrong one is a usage error."""
        if isinstance(value, Study):
            return value
        try:
            return load_study(value)
        except ValueError as error:
            text = _logged_study(value) if self.logged else None
            if text is None:
                self.fail(str(error), param, ctx)
            return parse_study(text, where=value)


def _logged_study(name: str) -> str | None:
    """Text of a study file that a run has; None if none has it."""
    from xling.tracking import find_study_file

    return find_study_file(name)


def study_option(default: str = "demo", *, logged: bool = False) -> Callable[[Command], Command]:
    """``--study``; with `logged`, the store is asked for names that no file has."""
    return click.option(
        "--study",
        type=StudyFile(logged=logged),
        default=default,
        show_default=True,
        help="Name of a study in xling/studies, or path of a study file"
        + ("; or name of a study that was logged." if logged else "."),
    )


data_option = click.option(
    "--data",
    type=click.Path(),
    default="",
    help="Folder of <code>.jsonl files to use instead of the study's data.",
)
model_option = click.option("--model", default="", help="Model of the study; empty: its first.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True
)
limit_option = click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Training and held-out questions at most, each (cross-fitted: questions in all); 0: all.",
)
force_option = click.option(
    "--force",
    type=bool,
    default=False,
    show_default=True,
    help="Repeat what a finished run has already.",
)
reasoning_option = click.option(
    "--reasoning", type=click.Choice(REASONING), default="direct", show_default=True
)
scoring_option = click.option(
    "--scoring", type=click.Choice(SCORING), default="answer-token", show_default=True
)


def split_names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Names separated by commas, as a tuple; empty: none asked for."""
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if value and not names:
        raise click.BadParameter(f"{value!r} names no model; leave it empty for all")
    return names


def arm_option(default: str, arms: Sequence[str] = ARMS) -> Callable[[Command], Command]:
    """``--arm``, one of `arms`."""
    return click.option("--arm", type=click.Choice(arms), default=default, show_default=True)


def entry_point(command: Command) -> Command:
    """Sets up the log and the end of a process around a command.

    Wrong input, missing files and a store that does not answer end with one message and exit
    code 1 (click's own usage errors: 2); SIGTERM and Ctrl-C end the run as KILLED. Any other
    error keeps its traceback, and XLING_DEBUG=1 brings back those of the former.
    """

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        from xling.distributed.following import check_started_alone

        _prepare_process()
        try:
            check_started_alone(command)
            value = command(*arguments, **options)
        except Exception as error:
            if os.environ.get(DEBUG) or not _is_plain(error):
                raise
            _say_what_waits()
            message = without_password(str(error)) + _disk_remedy(error)
            raise click.ClickException(message) from error
        if _say_what_waits():
            raise click.ClickException("not all results reached the tracking store: see above")
        return value

    return wrapped


def _say_what_waits() -> bool:
    """Says what waits for the tracking store; returns whether this command made some of it."""
    if "xling.tracking" not in sys.modules:
        return False  # the command had nothing to do with it
    from xling.tracking import account

    left = account()
    for line in left.lines:
        click.echo(line, err=True)
    return left.own


def _is_plain(error: Exception) -> bool:
    """Whether an error's message is all that a user needs."""
    if isinstance(error, (ValueError, OSError, RuntimeError)):
        return True
    from xling.tracking import MlflowException

    return isinstance(error, MlflowException)


def _disk_remedy(error: Exception) -> str:
    if getattr(error, "errno", None) not in DISK_ERRORS:
        return ""
    return (
        "\nFree the disk, or point XDG_STATE_HOME, XDG_CACHE_HOME, TMPDIR and "
        "MLFLOW_TRACKING_URI at places that can be written; what was computed before is kept"
    )


def _prepare_process() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    for room in ("xling", "analysis"):
        logging.getLogger(room).setLevel(logging.DEBUG if os.environ.get(DEBUG) else logging.INFO)
    # Bars of a few small files, and one library's warnings about another, hide what matters.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    raise Terminated(128 + number)
