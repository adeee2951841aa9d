"""Types of the arrays that the analysis works on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floating = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.int8]
Bits = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]
