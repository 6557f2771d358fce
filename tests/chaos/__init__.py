"""Killing workers and servers under load, and a checker that says whether anything was lost, doubled or let through."""
