"""Picks the best adapter of each model, registers it and gives it an alias."""

from __future__ import annotations

import re

import click

from entrypoints.common import OneMessage, data_option, entry_point, limit_option, study_option
from xling.study import Study


def _alias_of_the_registry(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Check that the registry takes an alias; it refuses others only after versions exist."""
    reserved = value.lower() == "latest" or re.fullmatch(r"[vV]\d+", value)
    if reserved or not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", value):
        raise click.BadParameter(
            f"{value!r:.80} must be made of letters, digits, '_' and '-', and be neither 'latest' "
            "nor a version such as 'v1'"
        )
    return value


@click.command(cls=OneMessage)
@study_option()
@data_option
@limit_option
@click.option("--model", default="", help="Model of the study; empty: each of them.")
@click.option("--alias", default="champion", show_default=True, callback=_alias_of_the_registry)
@click.option("--metric", default="accuracy_family/related", show_default=True)
@entry_point
def main(study: Study, data: str, limit: int, model: str, alias: str, metric: str) -> None:
    """Register the adapter of each model that has the best metric."""
    from xling import tracking
    from xling.execution import register_best, resolve_study

    name = resolve_study(study, data=data, limit=limit).name
    label = study.find_model(model).label if model else ""
    tracking.open_store()
    for adapter in register_best(name, alias=alias, metric=metric, model=label):
        click.echo(f"{adapter.uri} is version {adapter.version}")


if __name__ == "__main__":
    main()
