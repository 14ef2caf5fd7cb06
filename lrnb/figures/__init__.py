"""Tables and atlases in, plotly Figures out: one look a method, everywhere; nothing is read or changed.

`style` holds that look, `text` shows what models write as HTML. A figure made with `style.blank` and ended
with `style.finish` looks like the others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
