"""Queued calls: what they may, how they stand, whom their end is told."""
