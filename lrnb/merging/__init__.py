"""Two parents and a base become one model: every method's formula on arrays, and on whole checkpoints.

`ties_sv(base, ct, sft, density=..., slack=...)` and its like merge arrays; `find` gives a method's
declaration, from which all else reads its options; `merge_checkpoints` merges folders, `by_hand` six numbers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
