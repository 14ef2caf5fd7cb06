"""Whether Snakemake starts a failed step again: not after a mistake that the user has to mend."""

from __future__ import annotations

from collections.abc import Callable


class Retries:
    """Stands for a number of retries, which is over at once where `is_final` says so.

    Snakemake asks `retries > attempts so far` after each failure, and has no option that looks at why.
    `number` is asked then, since a Snakefile is read before Snakemake knows it.
    """

    def __init__(self, number: Callable[[], int], is_final: Callable[[], bool]) -> None:
        self.number, self.is_final = number, is_final

    def __gt__(self, attempts: int) -> bool:
        return self.number() > attempts and not self.is_final()
