"""Runs the benchmark scripts, prints their rows, keeps them in `results/`, and shows what got worse than the baseline."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import msgspec

import phalanx
from compare import BASELINE, RESULTS, Run, changes, read, write
from compare import table as table_of_changes
from measuring.cores import available
from measuring.model import models_dir
from measuring.report import Row, console, say, table

FOLDER = Path(__file__).parent
SCRIPTS = (
    "cosine",
    "tokens",
    "architectures",
    "face_vectors",
    "faces",
    "similarity",
    "collections",
    "memory",
    "admission",
    "limits",
    "latency",
    "grpc",
    "queue",
    "endurance",
    "concurrency",
    "flood",
    "image_flood",
    "throughput",
)
"""The order of a whole run: what is right first, then what is fast."""
BUSY = 0.5
"""A load average from which on a machine is not quiet."""


def main() -> int:
    """Run what was named, or everything; returns 1 when a bar is missed or a script fails."""
    arguments = _arguments()
    models_dir()
    load = os.getloadavg()[0]
    if load > BUSY:
        say(f"others are using this machine (load {load:.1f}): ratios should hold, times will not")
    rows: dict[str, list[Row]] = {}
    failed = []
    for name in arguments.names or SCRIPTS:
        found = _run(name)
        if found is None:
            failed.append(name)
        else:
            rows[name] = found
            console().print(table(found, name))
    now = datetime.datetime.now(datetime.UTC)
    run = Run(
        at=now.isoformat(timespec="seconds"), version=phalanx.__version__, machine=_machine(), cores=len(available()),
        load=round(load, 2), rows=rows,
    )  # fmt: skip
    write(RESULTS / f"{now:%Y-%m-%dT%H%M%S}.json", run)
    _compare(run)
    if arguments.save_baseline:
        _save(run)
    return _conclude(rows, failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"scripts to run [all]: {', '.join(SCRIPTS)}")
    parser.add_argument("--save-baseline", action="store_true", help="keep the results as the baseline")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SCRIPTS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such script; there are {', '.join(SCRIPTS)}")
    return arguments


def _run(name: str) -> list[Row] | None:
    """Run one script in a process of its own; None when it fails. Its progress goes to stderr."""
    say(f"— {name}")
    began = time.perf_counter()
    script = [sys.executable, str(FOLDER / f"bench_{name}.py"), "--json"]
    # A missed bar is a status of 1 too; what counts is whether there are rows.
    done = subprocess.run(script, stdout=subprocess.PIPE, check=False)
    say(f"— {name} took {time.perf_counter() - began:.0f} s")
    try:
        return msgspec.json.decode(done.stdout, type=list[Row])
    except msgspec.DecodeError:
        say(f"{name} failed with status {done.returncode}; its own words are above")
        return None


def _compare(run: Run) -> None:
    if not BASELINE.is_file():
        say("there is no baseline yet; keep one with --save-baseline")
        return
    baseline = read(BASELINE)
    found = changes(baseline, run)
    worse = [change for change in found if change.is_worse]
    title = f"against the baseline of {baseline.at} ({baseline.machine})"
    if worse:
        console().print(table_of_changes(worse, f"worse {title}"))
    else:
        console().print(f"nothing got worse {title}: {len(found)} values compared")


def _save(run: Run) -> None:
    """Keep the run as the baseline; scripts that were not run keep what was kept of them."""
    kept = read(BASELINE).rows if BASELINE.is_file() else {}
    write(BASELINE, msgspec.structs.replace(run, rows={**kept, **run.rows}))
    say(f"kept as {BASELINE.relative_to(FOLDER.parent)}")


def _conclude(rows: dict[str, list[Row]], failed: list[str]) -> int:
    verdicts = [row.verdict for found in rows.values() for row in found]
    missed = verdicts.count("FAIL")
    console().print(
        f"{verdicts.count('pass')} bars met, {missed} missed, {verdicts.count('not measured')} not measured"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return int(bool(missed or failed))


def _machine() -> str:
    """Return the processor's name, as the kernel knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
