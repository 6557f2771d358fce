"""Console scripts by the names that people have in their own scripts: thin ways into `phalanx`."""

from __future__ import annotations

import sys

from phalanx.cli import main
from phalanx.cli.keys import TierName


def create_api_key() -> None:
    """`create_api_key EMAIL TIER NAME` is `phalanx keys create EMAIL --tier TIER --name NAME`."""
    email, tier, name = _arguments("create_api_key EMAIL TIER [NAME]", ("free", "default"))
    _run("keys", "create", email, "--tier", tier, "--name", name)


def init_db() -> None:
    """`init_db EMAIL TIER` is `phalanx db migrate`, then a key as `create_api_key` makes it."""
    email, tier, name = _arguments("init_db EMAIL TIER [NAME]", ("free", "default"))
    try:
        _run("db", "migrate")
    except SystemExit as end:
        if end.code:
            raise
    _run("keys", "create", email, "--tier", tier, "--name", name)


def _arguments(usage: str, defaults: tuple[str, str]) -> tuple[str, str, str]:
    given = sys.argv[1:]
    tiers = ", ".join(tier.value for tier in TierName)
    if not 1 <= len(given) <= 3 or given[0].startswith("-"):
        sys.exit(f"usage: {usage}\n  TIER is one of {tiers}; an alias of `phalanx keys create`, which can do more.")
    email, tier, name = (*given, *defaults[len(given) - 1 :])
    return email, tier, name


def _run(*words: str) -> None:
    sys.argv = ["phalanx", *words]
    main()
