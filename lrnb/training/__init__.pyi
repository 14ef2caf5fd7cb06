from .base import real_base as real_base
from .base import scratch_model as scratch_model
from .finetuning import fine_tune as fine_tune
from .pretraining import TrainingRecipe as TrainingRecipe
from .pretraining import continual_pretrain as continual_pretrain
from .pretraining import load_model as load_model
from .pretraining import train_scratch as train_scratch
