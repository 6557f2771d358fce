"""Where `phalanx serve` listens when services are named."""

from __future__ import annotations

import pytest

from phalanx.cli.serve import own_ports


@pytest.mark.parametrize(
    ("service", "port"),
    [("face-detection", 8001), ("face-embedding", 8002), ("image-processing", 8003), ("similarity", 8004)],
)
def test_a_service_alone_has_a_port_of_its_own(service: str, port: int) -> None:
    assert own_ports([service]) == {"PORT": str(port), "PROMETHEUS_BIND": f"127.0.0.1:{port + 1500}"}


@pytest.mark.parametrize("services", [[], ["text"], ["faces"], ["all"], ["similarity", "face-detection"], ["nonsense"]])
def test_all_else_listens_where_a_worker_does(services: list[str]) -> None:
    assert own_ports(services) == {}
