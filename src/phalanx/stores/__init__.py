"""Where state lives: one folder a technology, one adapter a port."""
