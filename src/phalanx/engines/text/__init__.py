"""The text engine: tokeniser, batches, pooling, and what is made of a vector for the caller."""
