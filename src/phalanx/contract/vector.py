"""The float32 vector as it stands in contract structs, and how codecs read and write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
"""A float32 array of shape `[d]` (a vector) or `[n, d]` (one row a token)."""
