"""Phalanx: a self-hosted inference platform. One worker, run 1 to N times."""

__version__ = "0.1.0"
