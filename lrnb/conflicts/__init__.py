"""What a merge throws away: how many entries are in conflict, which parent loses them, what slack wins back.

An `Atlas` holds the exact counts of one merge by tensor, and a sample of its entries for what-ifs at other
settings; `cells` and `grid` follow them along the token budgets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
