"""The queue edge: jobs whose name is an operation, taken from BullMQ's queues in Redis."""
