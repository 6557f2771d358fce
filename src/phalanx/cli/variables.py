"""`phalanx settings`: what can be set."""

from __future__ import annotations

from phalanx.cli.tables import print_table
from phalanx.settings import reference


def settings() -> None:
    """List every setting: its environment variable, default and meaning.

    \b
    Example:
      phalanx settings | grep REDIS
    """
    rows = [(name, f"{meaning} [{default}]" if default else meaning) for name, default, meaning in reference()]
    print_table(("variable", "meaning [default]"), rows)
