"""The command line: `phalanx --help`."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""Exit status of what Ctrl-C ended, as shells have it: 128 and the number of SIGINT."""


def main() -> None:
    """Run the command line; a failure that is no bug is one plain line, or one a problem, and exit status 1."""
    try:
        # Here, since Ctrl-C while modules are read is no bug either.
        from phalanx.cli.root import run
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()
