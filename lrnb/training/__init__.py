"""The models that are merged: the base, continual pre-training (CT), supervised fine-tuning (SFT).

Training goes through transformers' and TRL's trainers, resumes exactly where it was broken off, and
writes Hugging Face folders. Everything here needs torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
