"""Text to train on, and how it becomes rows of tokens: corpora, packing, the synthetic micro-world.

Documents are streams of strings from the first line of a file to the last row of tokens: `read_local` or
`read_hub`, `clean`, `shuffled`, `hold_out`, `tokenize`, `replay`, `pack`, `write_packed`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
