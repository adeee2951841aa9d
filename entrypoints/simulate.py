"""Logs a simulated study of known truth, to try the analysis on and to check it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from analysis.simulation.design import SCALES, Design, Scale
from entrypoints.common import (
    STUDY_NAME,
    Command,
    Finite,
    OneMessage,
    Whole,
    entry_point,
    force_option,
    seed_option,
)
from xling.messages.values import format_value
from xling.study.load import study_names
from xling.study.settings import LONGEST_NAME


def _size(name: str, words: str) -> Callable[[Command], Command]:
    """Make an option for one of the design's counts, with the design's default."""
    default = getattr(Design(), name)
    return click.option(
        f"--{name}", type=Whole(min=1), default=default, show_default=True, help=words
    )


def _switch(name: str, words: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", type=bool, default=False, show_default=True, help=words)


def _shift(name: str, words: str) -> Callable[[Command], Command]:
    words += ": a proportion (0.1 is ten points), or logits on the latent scale."
    return click.option(f"--{name}", type=Finite(), default=0, show_default=True, help=words)


def _free_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Check that no study file has the name."""
    if value and (not STUDY_NAME.fullmatch(value) or len(value) > LONGEST_NAME):
        raise click.BadParameter(
            f"{format_value(value)} may hold letters, digits, _ and - only, {LONGEST_NAME} at most"
        )
    if value in study_names():
        raise click.BadParameter(f"{value!r} is the name of a study file; give another")
    return value


@click.command(cls=OneMessage)
@_size("models", "Models; the first half, rounded up, is weak.")
@_size("related", "Languages related to the source, Arabic.")
@_size("control", "Languages that are not.")
@_size("items", "Held-out items in each language.")
@_shift("effect", "Extra gain in related languages, D")
@_shift("weak_effect", "Extra gain in related languages of weak models only, I")
@click.option("--scale", type=click.Choice(SCALES), default="points", show_default=True)
@_size("seeds", "Seeds of fine-tuning.")
@click.option(
    "--arms",
    default="finetuned",
    show_default=True,
    help="finetuned, and if wanted control-source and shuffled-labels, separated by commas.",
)
@_switch("cot", "Whether the base model also answers after reasoning.")
@_switch("cloze", "Whether base and fine-tuned models are also scored by cloze.")
@_switch("permuted", "Whether they are also scored by the average over option orders.")
@_size("folds", "Folds of cross-fitting; 1: one split.")
@click.option(
    "--format",
    type=Finite(0, 1),
    default=Design().format,
    show_default=True,
    help="Share of the gain that is alignment with the answer format.",
)
@click.option(
    "--name", default="", callback=_free_name, help="Of the study; empty: from the parameters."
)
@seed_option
@force_option
@entry_point
def main(arms: str, scale: Scale, name: str, seed: int, force: bool, **fields: Any) -> None:
    """Simulate a study of known truth and log it as ordinary runs."""
    from analysis.simulation.log_run import log_simulation, study_name, truth_line
    from xling import tracking

    named = tuple(part.strip() for part in arms.split(",") if part.strip())
    design = Design(scale=scale, arms=named, **fields)
    tracking.open_store()
    parameters = {**fields, "scale": scale, "arms": ",".join(named), "name": name, "seed": seed}
    run_id = log_simulation(design, seed, name=name, parameters=parameters, force=force)
    study = study_name(design, seed, name)
    click.echo(f"Study {study} (run {run_id} at {tracking.tracking_uri()})")
    click.echo(truth_line(design))
    click.echo(f"Analyse it: {tracking.run_command('analyze', {'study': study})}")


if __name__ == "__main__":
    main()
