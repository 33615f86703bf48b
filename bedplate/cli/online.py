"""`bedplate online`: what the online store holds, and whether it is what history says."""

from __future__ import annotations

import click

from bedplate.cli.verify import verify


@click.group()
def online() -> None:
    """Compare the online store with history.

    \b
    Examples:
      bedplate online verify
      bedplate online verify --keys 10000 customer_lines
    """


online.add_command(verify)
