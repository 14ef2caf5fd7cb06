"""Hugging Face folders, opened safely and written whole: safetensors, `.bin`, LoRA adapters, Hub ids.

`open_source` opens whatever a model was given as, `open_checkpoint` a folder of safetensors; weights stay
memory-mapped. `new_checkpoint` writes one tensor at a time and appears under its name when it is whole.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
