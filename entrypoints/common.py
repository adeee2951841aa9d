"""What every entry point shares: its options, its log, and how it ends."""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from xling.messages.errors import Terminated, message_of
from xling.messages.secrets import mask_output
from xling.messages.values import MOST, format_name, format_value
from xling.study import Study
from xling.study.load import load_study, parse_study
from xling.study.settings import ARMS, LARGEST, REASONING, SCORING

Command = Callable[..., Any]
DEBUG = "XLING_DEBUG"
# Characters of a line of a usage error.
MOST_OF_USAGE = 400
STUDY_NAME = re.compile(r"[A-Za-z0-9_-]+")


class OneMessage(click.Command):
    """A command whose options, too, end with one short message where they are wrong."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read the options.

        Raises:
            click.ClickException: instead of any error.
        """
        with one_message():
            try:
                return super().make_context(*arguments, **options)
            except click.UsageError as error:
                # A study's problems have a line each; click's own words hold what was typed.
                words = error.format_message()
                lines = words.split("\n") if _is_of_a_study(error) else [words]
                message = "\n".join(format_name(line, MOST_OF_USAGE) for line in lines)
                raise click.UsageError(message, ctx=error.ctx) from error


def _is_of_a_study(error: click.UsageError) -> bool:
    parameter = error.param if isinstance(error, click.BadParameter) else None
    return parameter is not None and parameter.type.name == StudyFile.name


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
        """Read the study; a wrong one is a usage error."""
        if isinstance(value, Study):
            return value
        try:
            return load_study(value)
        except ValueError as error:
            text = _logged_study(value) if self.logged else None
            if text is None:
                self.fail(str(error), param, ctx)
        try:
            study = parse_study(text, where=f"{value} (study.yaml of its run)")
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return study.model_copy(update={"origin": value})


def _logged_study(name: str) -> str | None:
    """Find the text of a study file that a run has; None if none has it."""
    if not STUDY_NAME.fullmatch(name):
        return None  # the path of a file, whose own error is the message
    from xling.tracking import StoreUnavailable, find_study_file

    try:
        return find_study_file(name)
    except StoreUnavailable as error:  # options are read before `entry_point` is at work
        raise click.ClickException(str(error)) from error


class Whole(click.IntRange):
    """A whole number in a range, and none that is too large for anything it could count.

    `most` is not part of the range: what is possible up to there is not worth reading in the help.
    """

    def __init__(self, min: int | None = None, max: int | None = None, most: int = LARGEST) -> None:
        super().__init__(min, max)
        self.most = most if max is None else max

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number; a wrong one is a usage error."""
        if isinstance(value, str) and len(value) > MOST:
            self.fail(f"{format_value(value)} is not a valid integer up to {self.most}", param, ctx)
        number = int(super().convert(value, param, ctx))
        if number > self.most:
            self.fail(f"{number} is more than {self.most}", param, ctx)
        return number


class Finite(click.FloatRange):
    """A number in a range; not NaN, which is in every one."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number; a wrong one is a usage error."""
        if isinstance(value, str) and len(value) > MOST:
            self.fail(f"{format_value(value)} is not a valid float", param, ctx)
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def study_option(default: str = "demo", *, logged: bool = False) -> Callable[[Command], Command]:
    """Make ``--study``; with `logged`, the store is asked for names that no file has."""
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
seed_option = click.option("--seed", type=Whole(0, 2**32 - 1), default=0, show_default=True)
limit_option = click.option(
    "--limit",
    type=Whole(min=0),
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
    """Split names at commas; empty: none asked for."""
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if value and not names:
        raise click.BadParameter(f"{format_value(value)} names no model; leave it empty for all")
    return names


def arm_option(default: str, arms: Sequence[str] = ARMS) -> Callable[[Command], Command]:
    """Make ``--arm``, one of `arms`."""
    return click.option("--arm", type=click.Choice(arms), default=default, show_default=True)


def entry_point(command: Command) -> Command:
    """Set up the log and the end of a process around a command, and its option ``--debug``.

    Every error ends with one message and exit code 1 (click's own usage errors: 2): wrong input,
    missing files and a store that does not answer with theirs, any other as a defect of this
    package, with its place. SIGTERM and Ctrl-C end the run as KILLED. With ``--debug``, or
    XLING_DEBUG=1, errors have their tracebacks.
    """

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        from xling.training.torchrun import check_started_alone

        _prepare_process()
        with one_message():
            check_started_alone(command)
            try:
                value = command(*arguments, **options)
            except Exception:
                _say_what_waits()
                raise
        if _say_what_waits():
            raise click.ClickException("not all results reached the tracking store: see above")
        return value

    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_note_debug,
        help="Show tracebacks and a detailed log. It is not a parameter of `mlflow run`: there, "
        f"and in processes that a command starts, {DEBUG}=1 does the same.",
    )(wrapped)


def _say_what_waits() -> bool:
    """Say what waits for the tracking store; return whether this command made some of it."""
    if "xling.tracking" not in sys.modules:
        return False  # the command had nothing to do with it
    from xling.tracking import account

    left = account()
    for line in left.lines:
        click.echo(line, err=True)
    return left.own


def _note_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not os.environ.get(DEBUG):
        os.environ[DEBUG] = "1"  # where the processes that the command starts look for it
        context.call_on_close(lambda: os.environ.pop(DEBUG, None))


@contextmanager
def one_message() -> Iterator[None]:
    """Make one message of any error; with ``--debug`` it keeps its traceback.

    Raises:
        click.ClickException: instead of the error.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        raise click.ClickException(message_of(error)) from error


def _prepare_process() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    mask_output()
    for room in ("xling", "analysis"):
        logging.getLogger(room).setLevel(logging.DEBUG if os.environ.get(DEBUG) else logging.INFO)
    # Of each try that fails; what comes of them has its own line.
    tries = logging.DEBUG if os.environ.get(DEBUG) else logging.ERROR
    logging.getLogger("urllib3.connectionpool").setLevel(tries)
    # That a monitor starts and stops, that there is no GPU to watch, that an example is valid.
    for room in ("mlflow.system_metrics", "mlflow.pyfunc"):
        logging.getLogger(room).setLevel(logging.WARNING)
    # That a CPU kernel which the package does not use is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # Bars of a few small files, and one library's warnings about another, hide what matters.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    raise Terminated(128 + number)
