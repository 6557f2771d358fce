"""Collections of points and galleries of faces, and their moves to other models."""
