"""Several workers of one queue, replaced while jobs run; kills with a thousand jobs are `make bench B=endurance`."""

from __future__ import annotations

from pathlib import Path

from live.endurance import installation, replace_workers
from servers import PostgresServer, RedisServer


def test_no_job_fails_while_workers_are_replaced(
    tmp_path: Path, models_dir: Path, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    with installation(tmp_path, models_dir, postgres, redis_server) as place:
        found = replace_workers(place, workers=2, batch=2, running=10)
    assert found.is_whole, found
    assert found.queued > 6
