"""The question before something that cannot be taken back."""

from __future__ import annotations

import sys

import click

from orvalho.errors import InvalidInput


def confirm(question: str) -> None:
    """Ask on a terminal.

    Raises:
        InvalidInput: there is none.
        click.Abort: the answer is no.
    """
    if not sys.stdin.isatty():
        raise InvalidInput("off a terminal this needs --yes.", hint="the same command with -y")
    if not click.confirm(question, err=True):
        raise click.Abort
