from .page import picture as picture
from .page import write_report as write_report
from .terminal import print_results as print_results
from .terminal import print_seeds as print_seeds
