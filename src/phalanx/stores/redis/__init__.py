"""State in Redis, shared by all workers: counters, permits, answers, cached vectors, news."""
