"""Says what effect a design of given sizes can find, and what bound it can prove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from entrypoints.common import Command, OneMessage, StudyFile, Whole, entry_point
from xling.study import Study


class OptionalStudyFile(click.ParamType[Study | None]):
    """A study as StudyFile reads it, or None if left empty."""

    name = "study"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Study | None:
        """Read the study; a wrong one is a usage error."""
        return None if value in ("", None) else StudyFile(logged=True).convert(value, param, ctx)


# Far more than any study has; the formulas hold for some thousands of languages.
_MOST = {"items": 1_000_000}
_MOST_OTHERS = 1000


def _size(name: str, least: int, default: int, words: str) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}",
        type=Whole(min=least, most=_MOST.get(name, _MOST_OTHERS)),
        default=default,
        show_default=True,
        help=words,
    )


@click.command(cls=OneMessage)
@click.option(
    "--study",
    type=OptionalStudyFile(),
    default="",
    help="Study whose finished evaluate runs give the variances; empty: usual ones.",
)
@_size("models", 1, 7, "Number of models.")
@_size("related", 2, 3, "Number of related languages.")
@_size("control", 2, 3, "Number of control languages.")
@_size("items", 1, 100, "Items per language.")
@_size("seeds", 1, 1, "Training seeds per model.")
@click.option("--experiment", default="", help="Experiment of the study's runs; empty: this one.")
@entry_point
def main(
    study: Study | None,
    models: int,
    related: int,
    control: int,
    items: int,
    seeds: int,
    experiment: str,
) -> None:
    """Compute minimal detectable effects and provable bounds of D and I."""
    from xling import tracking

    tracking.open_store()
    from analysis.power_run import Design, run_power  # takes longer than asking the store

    sizes = {
        "models": models,
        "related": related,
        "control": control,
        "items": items,
        "seeds": seeds,
    }
    result = run_power(
        study,
        Design(**sizes),
        experiment=experiment,
        parameters={
            "study": study.origin if study else "",
            **sizes,
            "experiment": experiment,
        },
    )
    for line in result.summary:
        click.echo(line)


if __name__ == "__main__":
    main()
