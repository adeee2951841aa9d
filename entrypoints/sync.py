"""Sends what an outage of the tracking store held back."""

from __future__ import annotations

import click

from entrypoints.common import OneMessage, entry_point


@click.command(cls=OneMessage)
@entry_point
def main() -> None:
    """Send the runs that wait on this machine for the tracking store, each exactly once."""
    from xling import tracking

    number = tracking.sync_store()
    click.echo(f"{number} {'run' if number == 1 else 'runs'} sent to {tracking.tracking_uri()}")


if __name__ == "__main__":
    main()
