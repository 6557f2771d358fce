"""Use cases. Protocol-free and asynchronous; every public method of a service takes its ticket first."""
