"""Candidates proposed one after the other, where a grid is larger than the budget: Optuna's TPE.

The Tree-structured Parzen Estimator (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization")
looks for values between the smallest and the largest of each list of numbers, and among the words of a list
of words. The first candidate is the declaration's default, as far as that lies between them; a third of the
candidates, it among them, is not proposed but drawn, the others come from what those before scored.

What was scored is kept in the run folder, so that a search that was stopped goes on. Each draw has a seed of
its own, from the study's and its number: what is proposed does not depend on where it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from lrnb.errors import UserError
from lrnb.merging.methods import find
from lrnb.study.files import digest, make_folder
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths
from lrnb.tuning.search import candidate_grid, candidates, grid_size

FIGURES = 3  # significant ones of a proposed number
DRAWN = 3  # one of so many candidates is drawn, not proposed
SEEDS = 10_000  # more candidates than anybody tries
Options = dict[str, Any]


def proposes(study: Study, method: str) -> bool:
    """Whether a method's candidates are proposed: asked for, and a grid that is larger than the budget."""
    return study.search_by == "tpe" and grid_size(study, method) > study.tuning_trials


def refuse_missing_optuna(study: Study, methods: Iterable[str]) -> None:
    """UserError where candidates of one of these methods are to be proposed and nobody can."""
    asking = [method for method in methods if proposes(study, method)]
    if asking and find_spec("optuna") is None:
        raise UserError(
            f"search_by tpe, for {asking[0]}, needs a package: {sys.executable} -m pip install optuna; or "
            "give --set search_by=grid"
        )


def try_candidates(
    study: Study,
    method: str,
    known: Callable[[], Mapping[str, Any]],
    score: Callable[[Options], Any],
    restore: Callable[..., Any],
) -> Iterator[tuple[Options, Any]]:
    """The candidates of a method and what each scored: those of the grid, or proposed ones.

    known: gives what their scores depend on beside the options; scores made from the same are not made again.
    score: gives a named tuple whose `score` is to be large; restore: makes one of its fields again.
    """
    if not proposes(study, method):
        yield from ((options, score(options)) for options in candidate_grid(study, method))
        return
    search = _open(study, method, known())
    done = [trial for trial in search.trials if trial.user_attrs.get("scored")][: study.tuning_trials]
    for trial in done:
        yield dict(trial.user_attrs["options"]), restore(*trial.user_attrs["scored"])
    for number in range(len(done), study.tuning_trials):
        trial, options = _propose(study, method, search, number)
        found = score(options)
        trial.set_user_attr("options", options)
        trial.set_user_attr("scored", list(found))
        search.tell(trial, found.score)
        yield options, found


def _open(study: Study, method: str, known: Mapping[str, Any]) -> Any:
    """The search, with what was scored before."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = [method, candidates(study, method), study.seed, study.tuning_trials, dict(known)]
    place = make_folder(RunPaths(study).lang / ".tpe") / f"{method}.jsonl"
    storage = JournalStorage(JournalFileBackend(str(place)))
    how: dict[str, Any] = {"study_name": digest(asked), "direction": "maximize", "load_if_exists": True}
    search, states = optuna.create_study(storage=storage, **how), optuna.trial.TrialState
    for trial in search.get_trials(states=(states.RUNNING,)):  # of a process that was stopped
        search.tell(trial.number, state=states.FAIL)
    return search


def _propose(study: Study, method: str, search: Any, number: int) -> tuple[Any, Options]:
    """The next candidate, the `number`th that is scored."""
    from optuna.samplers import TPESampler

    lists, drawn = candidates(study, method), max(1, study.tuning_trials // DRAWN)
    search.sampler = TPESampler(seed=SEEDS * study.seed + number, n_startup_trials=drawn)
    if number == 0:
        search.enqueue_trial(_defaults(method, lists), skip_if_exists=True)
    trial = search.ask()
    return trial, {name: _value(trial, name, values) for name, values in lists.items()}


def _defaults(method: str, lists: Mapping[str, list[Any]]) -> Options:
    """Where the options of a declaration begin, of those for which that lies in what is searched."""
    known = find(method).fields()
    starts = {
        name: known[name].default if isinstance(values[0], str) else known[name].start
        for name, values in lists.items()
        if len(values) > 1
    }
    return {name: x for name, x in starts.items() if min(lists[name]) <= x <= max(lists[name])}


def _value(trial: Any, name: str, values: list[Any]) -> Any:
    """A word of the list, or a number between its smallest and its largest, rounded."""
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], str):
        return trial.suggest_categorical(name, values)
    low, high = min(values), max(values)
    return min(max(float(f"{trial.suggest_float(name, low, high):.{FIGURES}g}"), low), high)
