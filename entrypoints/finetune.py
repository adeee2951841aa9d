"""Trains one adapter."""

from __future__ import annotations

import click

from entrypoints.common import (
    OneMessage,
    Whole,
    arm_option,
    data_option,
    entry_point,
    force_option,
    limit_option,
    model_option,
    seed_option,
    study_option,
)
from xling.study import Cell, Study
from xling.study.settings import ARMS, PRIMER, Arm, Primer
from xling.training.torchrun import led


@click.command(cls=OneMessage)
@study_option()
@data_option
@model_option
@arm_option("finetuned", [*(arm for arm in ARMS if arm != "base"), PRIMER])
@seed_option
@click.option(
    "--fold",
    type=Whole(min=0),
    default=0,
    show_default=True,
    help="Fold that is held out, of a cross-fitted study.",
)
@limit_option
@force_option
@entry_point
@led
def main(
    study: Study,
    data: str,
    model: str,
    arm: Arm | Primer,
    seed: int,
    fold: int,
    limit: int,
    force: bool,
) -> None:
    """Fine-tune one model of a study: on its source languages, or as another arm asks.

    Arm `primer` is what a primed model is tuned on before all else.
    """
    from xling import tracking
    from xling.execution import prepare_study, run_finetune
    from xling.models import BaseModelCache

    chosen = study.find_model(model)
    cell = study.primer_cell(chosen) if arm == PRIMER else Cell(chosen, arm, seed)
    tracking.check_store()
    study_data = prepare_study(study, data=data, limit=limit)
    tracking.open_store()
    run_id = run_finetune(study_data, cell, BaseModelCache(), fold=fold, force=force)
    click.echo(f"{study_data.adapter_name(cell, fold)}: run {run_id}")


if __name__ == "__main__":
    main()
