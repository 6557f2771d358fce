"""Vectors in Qdrant: its engine in a process beside the worker (Edge), or its server."""
