"""Who calls: keys, users, organisations, sessions, and what they did."""
