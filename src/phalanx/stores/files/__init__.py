"""What is kept in files of this machine."""
