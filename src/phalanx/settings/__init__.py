"""The one reader of the environment: every variable is a field of `Settings`, parsed and checked at start.

Values come, in this order, from the real environment, from a file named by `<NAME>_FILE`, from `.env` (or `ENV_FILE`),
from the default. All problems are reported at once; a name that is one edit from a known one is pointed out.
"""

from __future__ import annotations

from phalanx.settings.parsing import Network, Secret
from phalanx.settings.reading import Loaded, LogFormat, SettingsError, load, log_format, reference, variables
from phalanx.settings.table import UNUSED, Settings, Variable

__all__ = [
    "UNUSED",
    "Loaded",
    "LogFormat",
    "Network",
    "Secret",
    "Settings",
    "SettingsError",
    "Variable",
    "load",
    "log_format",
    "reference",
    "variables",
]
