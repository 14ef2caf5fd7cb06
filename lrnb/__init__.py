"""lrnb: merge continually pre-trained and fine-tuned language models for low-resource languages."""

from __future__ import annotations

import os

__version__ = "0.2.0"

if "OMP_WAIT_POLICY" not in os.environ:
    # In torch's OpenMP a thread that waits for others spins 300,000 times before it sleeps, and 1,000 times
    # where it has more threads than cores. Other programs it does not see: beside one it is ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
