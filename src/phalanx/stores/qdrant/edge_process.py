"""The process that has the vectors of a worker: `python -m phalanx.stores.qdrant.edge_process FOLDER`.

It is a process of its own because each call of Qdrant Edge keeps the interpreter's lock until it returns: in the worker, an
upsert of 2,000 vectors would hold up everybody for 70 ms. It reads requests from its input and writes answers to its output,
one after another, and ends when its input does.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import msgspec

from phalanx.errors import PhalanxError, Unavailable
from phalanx.stores.qdrant.frames import HEADER, Answer, Request, framed
from phalanx.stores.qdrant.shards import Shards

STDIN, STDOUT = 0, 1
READ_BYTES = 1 << 20
TEND_EVERY_S = 0.25
FAILED = "the engine of the vectors failed"


def main() -> None:
    """Serve a folder until the worker is gone."""
    # A terminal and systemd send these to the whole group; the worker closes its end when it has drained.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        shards = Shards(Path(sys.argv[1]))
    except PhalanxError as error:
        _write(framed(Answer(0, code=error.code, detail=error.detail)))
        return
    except OSError as error:
        _write(
            framed(
                Answer(
                    0, code=Unavailable.row.code, detail="the folder of the vectors cannot be opened", reason=str(error)
                )
            )
        )
        return
    try:
        _serve(shards)
    except BrokenPipeError:
        pass
    finally:
        shards.close()


def _serve(shards: Shards) -> None:
    decoder = msgspec.msgpack.Decoder(Request)
    waiting = bytearray()
    while True:
        patience = None if shards.is_settled() else TEND_EVERY_S
        if not select.select([STDIN], [], [], patience)[0]:
            shards.tend()
            continue
        read = os.read(STDIN, READ_BYTES)
        if not read:
            return
        waiting += read
        while len(waiting) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(waiting)[0]
            if len(waiting) < end:
                break
            request = decoder.decode(bytes(waiting[HEADER.size : end]))
            del waiting[:end]
            _write(framed(_answer(shards, request)))
        shards.tend()


def _answer(shards: Shards, request: Request) -> Answer:
    try:
        return Answer(request.number, shards.do(request.call))
    except PhalanxError as error:
        return Answer(request.number, code=error.code, detail=error.detail)
    except Exception as error:
        return Answer(
            request.number, code=Unavailable.row.code, detail=FAILED, reason=f"{type(error).__name__}: {error}"
        )


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(STDOUT, left) :]


if __name__ == "__main__":
    main()
