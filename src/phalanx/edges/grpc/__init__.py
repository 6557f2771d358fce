"""The gRPC edge: the rows of the table as services of protocol buffers."""
