"""Faces of pictures and folders, from the command line."""
