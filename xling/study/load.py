"""Reads study files, and says in one line for each key what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from xling.files.strict_yaml import MAX_CHARS, read_settings
from xling.messages.secrets import without_secrets
from xling.messages.values import format_name, format_value
from xling.study.settings import Strict
from xling.study.study import Study

# Problems of one file in a message, and characters of each: more are not read.
MOST_PROBLEMS = 10
MOST_OF_ONE = 400
SERVER = "server"  # key of a model whose values are not repeated


def study_names() -> tuple[str, ...]:
    """Return the names of the studies that come with the package."""
    folder = files("xling").joinpath("studies")
    return tuple(
        sorted(
            path.name.removesuffix(".yaml")
            for path in folder.iterdir()
            if path.name.endswith(".yaml")
        )
    )


def load_study(study: str) -> Study:
    """Read a study by its name, or a study file by its path.

    Raises:
        ValueError: no such study, not YAML, or not valid; one line for each wrong key with its
            valid values, for the first `MOST_PROBLEMS` of them.
    """
    path = Path(study)
    if study in study_names():
        text = files("xling").joinpath("studies", f"{study}.yaml").read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml") and _is_file(path):
        text = _read(path)
    else:
        close = difflib.get_close_matches(study, study_names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"unknown study {format_value(without_secrets(study))}.{hint} "
            f"Valid: {', '.join(study_names())}, or the path of a .yaml file"
        )
    return parse_study(text, where=study)


def parse_study(text: str, *, where: str) -> Study:
    """Read the text of a study file.

    Args:
        text: YAML.
        where: the file's name, for messages.

    Raises:
        ValueError: as `load_study`.
    """
    try:
        content = read_settings(text)
    except ValueError as error:
        said = without_secrets(str(error))
        raise ValueError(f"{where} is not YAML that holds settings: {said}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds no settings; see xling/studies/demo.yaml for the form")
    try:
        study = Study.model_validate(_tuples(content)).model_copy(update={"origin": where})
    except ValidationError as error:
        said = without_secrets(_explain(error))
        raise ValueError(f"{where} is not a valid study:\n{said}") from error
    _refuse_secrets(content, where)
    return study


def _is_file(path: Path) -> bool:
    """Return whether there is such a file; False as well for what no file can be called."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system, for one
        return False


def _refuse_secrets(content: Any, where: str) -> None:
    """Refuse a file with what looks like a password or a key: runs log the whole of it."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{inner}".lstrip("."), each) for inner, each in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{key}.{number}", each) for number, each in enumerate(value)]
        elif isinstance(value, str) and without_secrets(value) != value:
            # The value is not repeated.
            raise ValueError(
                f"{where}: {without_secrets(key)} holds what looks like a password or a key, and "
                "runs log the study: take it out and put it into the environment (HF_TOKEN for the "
                "hub; a server's key into the variable that `server.key_variable` names)"
            )


def _read(path: Path) -> str:
    """Read the text of a file; ValueError if it is not text."""
    try:
        if path.stat().st_size > 4 * MAX_CHARS:
            raise ValueError(f"{path} is too long for a study file: {path.stat().st_size} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error


def _tuples(value: Any) -> Any:
    """Turn YAML's lists into the tuples that strict validation asks for."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _explain(error: ValidationError) -> str:
    """Write one line for each problem: the key, what is wrong and what is valid."""
    lines = []
    for problem in error.errors(include_url=False):
        location, got = problem["loc"], f" (got {format_value(problem['input'])})"
        if SERVER in location:
            got = ""  # an address may hold a password
        match problem["type"]:
            case "extra_forbidden":
                message = f"unknown key; valid: {', '.join(_keys(_section(location[:-1])))}"
            case "missing":
                field = _section(location[:-1]).model_fields[str(location[-1])]
                values = ", ".join(repr(value) for value in get_args(field.annotation))
                is_choice = get_origin(field.annotation) is Literal
                message = f"missing; valid: {values}" if is_choice else "missing"
            case "model_type":
                message = f"must hold keys of {', '.join(_keys(_section(location)))}{got}"
            case "too_short" if problem["input"]:
                continue  # only because a value in the list is wrong, which has its own line
            case "too_short":
                message = "must not be empty"
            case "tuple_type":
                message = f"must be a list, such as [a, b]{got}"
            case "float_type" if isinstance(problem["input"], str):
                message = f"must be a number; YAML takes 5.0e-4 for one, but not 5e-4{got}"
            case "value_error":
                message = problem["msg"].removeprefix("Value error, ")
            case _:
                message = problem["msg"] + got
        key = ".".join(format_name(str(part), 40) for part in location) or "study"
        lines.append(_cut(f"  {key}: {message}"))
    if len(lines) > MOST_PROBLEMS:
        lines[MOST_PROBLEMS:] = [f"  and {len(lines) - MOST_PROBLEMS} more problems"]
    return "\n".join(lines)


def _cut(line: str) -> str:
    """Make it one line, of `MOST_OF_ONE` characters at most."""
    line = line.replace("\n", " ")
    return line if len(line) <= MOST_OF_ONE else f"{line[:MOST_OF_ONE]}…"


def _section(location: tuple[int | str, ...]) -> type[Strict]:
    """Find the section of a study file that a problem is in; the innermost one that is known."""
    section: type[Strict] = Study
    for part in location:
        field = section.model_fields.get(str(part))
        section = next(_sections_of(field.annotation), section) if field else section
    return section


def _sections_of(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_of(inner)


def _keys(section: type[Strict]) -> list[str]:
    return [name for name, field in section.model_fields.items() if not field.exclude]
