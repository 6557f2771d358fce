"""Several worker processes on one socket: started, watched, replaced and stopped together.

The supervisor knows nothing of what a worker does. It hands it the listening sockets and a line (`messages`), hears
from the worker's event loop about once a second (`lifeline`), and adds the workers' metrics up (`sums`).
"""
