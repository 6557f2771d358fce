"""Outbound calls: what this worker asks of others over the network."""
