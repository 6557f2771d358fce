"""Faces: found, brought to the pose a network was trained on, and turned into vectors. Maths only."""
