"""Edges translate a protocol into calls and answers; they add no rule of their own."""
