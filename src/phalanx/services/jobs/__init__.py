"""Queued calls: as whom they run, what becomes of them, and who is told of their end."""
