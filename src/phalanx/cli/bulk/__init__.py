"""Bulk files: texts in, vectors out, in constant memory, and nothing that was done is done again."""
