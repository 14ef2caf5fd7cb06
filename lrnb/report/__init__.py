"""What a person reads at the end: the page of a run, which opens offline, and tables in the terminal."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
