"""Models answer items: options by their log-likelihood, written answers greedily, held-out text in bits.

`score_models` makes the tables of scores and of items; `Scorer` is one open model; `ScoreCache` serves what
did not change; `predicted` and `collapsed` look at the answers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
