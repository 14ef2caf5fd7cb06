"""lrnb: merge continually pre-trained and fine-tuned language models for low-resource languages."""

from __future__ import annotations

__version__ = "0.2.0"
