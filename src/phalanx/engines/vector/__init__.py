"""Vectors compared: by cosine, Euclidean distance and dot product, in pairs, rows and matrices; exact search."""
