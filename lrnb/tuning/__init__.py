"""Candidates tried on dev items, as many for every arm; and a merge that is made again at every move.

`choose_on_dev` is a merge method's whole stage: candidates scored, the best written at every budget.
`choose_sft` is SFT's: candidates trained, the best kept. `Playground` keeps one open model whose weights
are exchanged.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
