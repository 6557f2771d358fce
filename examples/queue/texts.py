"""Queues texts to be embedded and prints the vectors' lengths: a producer in Python.

    REDIS_URL=redis://127.0.0.1:6379/0 python examples/queue/texts.py QUEUE TEXT...

Needs bullmq.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from bullmq import Job, Queue


async def main(name: str, texts: list[str]) -> int:
    """Queue one job a text and wait for them; returns 1 when one failed."""
    queue = Queue(name, {"connection": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")})
    failed = 0
    try:
        jobs = await queue.addBulk([{"name": "text.embed", "data": {"texts": [text]}} for text in texts])
        for text, queued in zip(texts, jobs, strict=True):
            while (state := await queue.getJobState(queued.id)) not in ("completed", "failed"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            job = await Job.fromId(queue, queued.id)
            if state == "completed":
                line = {"text": text, "dimensions": len(job.returnvalue["embeddings"][0])}
            else:
                line = {"text": text, "error": json.loads(job.failedReason)}
                failed += 1
            print(json.dumps(line), flush=True)  # noqa: T201 - its output
    finally:
        await queue.close()
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2:])))
