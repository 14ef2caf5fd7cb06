from .extending import extend_vocabulary as extend_vocabulary
from .opening import open_source as open_source
from .reading import Checkpoint as Checkpoint
from .reading import check_finite as check_finite
from .reading import open_checkpoint as open_checkpoint
from .vocabulary import prune_vocabulary as prune_vocabulary
from .writing import new_checkpoint as new_checkpoint
from .writing import write_checkpoint as write_checkpoint
