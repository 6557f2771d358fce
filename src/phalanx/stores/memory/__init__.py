"""State of one process: nothing here outlives it or is seen by another one."""
