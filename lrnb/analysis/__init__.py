"""What a run, and what many runs, say: tables in, tables and sentences out; no weights, no torch.

`gather` reads the scores; `compare_methods`, `marks` and `detectable_differences` say what they can carry;
the conflict atlases of a run come from `study_atlases`; then why answers fail, and each finding in words.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
