"""The models that take traffic: loaded, checked, swapped, and how they do."""
