"""Faces: found, described, embedded, compared."""
