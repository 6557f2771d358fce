"""What callers may and what they used: tiers, limits, quotas, the ledger."""
