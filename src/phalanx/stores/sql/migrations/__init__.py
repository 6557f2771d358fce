"""Alembic's environment: `env.py` runs the revisions in `versions/`, oldest first."""
