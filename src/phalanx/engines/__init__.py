"""Engines: maths without I/O. `prepare` on any thread, `run` a batch on the engine thread, `finish` by the request."""
