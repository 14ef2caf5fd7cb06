"""The study as a graph of steps: which notebook makes what, from what, with which parameters.

`plan(study)` is the only list of steps: the Snakefile turns it into rules, `lrnb run` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from lrnb.checkpoints.importance import GRAM
from lrnb.errors import UserError
from lrnb.merging.methods import METHODS, find
from lrnb.merging.registry import ANY_METHOD
from lrnb.study.files import MANIFEST, write_text
from lrnb.study.parameters import ENGLISH, ROOT, Study, budget_name, read_yaml, validate
from lrnb.study.parameters_cell import notebook_params
from lrnb.study.stages import RunPaths
from lrnb.tuning.by_tpe import refuse_missing_optuna
from lrnb.tuning.entry_scores import kinds_of_method, scores_wanted
from lrnb.tuning.search import check_methods, elected, methods_together, sft_candidates

SHARED = {"lang": ENGLISH, "lang_name": "English", "script": "Latin"}
PARENTS = ("base", "ct", "sft")
EVALUATE = "02_merge/04_evaluate"
ONE_SFT = 22  # cost of one candidate over `sft_epochs`
RUNNER_KEYS = {"preset", "lang", "lang_name", "seed", "runs", "threads", "device", "merge_languages", "sft_x",
               "set_languages"}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One notebook with its parameters: a node of the graph, a rule of the Snakefile.

    `cost` is the usual time at preset nano, in CPU seconds of a quiet core; it only says what to start
    first and weighs the estimate of the time left.
    """

    name: str
    notebook: str  # below notebooks/; "" for the report, which needs none
    home: Path  # the run folder it belongs to: <lang>/ or shared/
    results: tuple[Path, ...]  # files that exist when it is done
    needs: tuple[str, ...] = ()
    cost: float = 10
    gpu: bool = False
    values: dict[str, Any] = field(default_factory=dict)  # parameters that differ from the study's
    beside: tuple[tuple[str, str, Path], ...] = ()  # (language, step, result) of other languages it needs

    @property
    def source(self) -> Path:
        return (
            ROOT / "notebooks" / f"{self.notebook}.ipynb" if self.notebook else ROOT / "lrnb/report/page.py"
        )

    @property
    def params(self) -> Path:
        return self.home / "params" / f"{self.name}.yaml"

    @property
    def executed(self) -> Path:
        return self.home / "notebooks" / f"{self.name}.ipynb"

    @property
    def record(self) -> Path:
        """What the step was made from, written after success by the batch runner."""
        return self.home / ".done" / f"{self.name}.json"


def plan(study: Study) -> dict[str, Step]:
    """The steps of a study by name, each after those it needs. Preset released trains nothing.

    UserError where `methods` or `search` ask for what the declarations of the methods do not allow.
    """
    check_methods(study)
    refuse_missing_optuna(study, study.methods)
    study = study.model_copy(update={"sft_x_name": ""})
    budgets = study.ct_budgets if study.trains else []
    tuned = tuple(f"cts_{budget_name(b)}" for b in budgets)
    arms = [step for name in study.sft_x for step in _on_rows_in_x(study, name)]
    steps = [
        *_parents(study, budgets),
        *_scores(study),
        *_merges(study),
        *arms,
        *_analysis(study, tuned),
        *_together(study),
        *_sets(study),
    ]
    return {step.name: step for step in steps}


class Waiting(Protocol):
    """What `urgency` asks of a step, or of a node of a graph."""

    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def cost(self) -> float: ...


def urgency(steps: Mapping[str, Waiting]) -> dict[str, int]:
    """Seconds of the longest chain of steps that waits for each: the scheduler starts the longest first."""
    chain = dict.fromkeys(steps, 0.0)
    for name, step in reversed([*steps.items()]):
        chain[name] += step.cost
        for need in step.needs:
            chain[need] = max(chain[need], chain[name])
    return {name: round(seconds) for name, seconds in chain.items()}


def _parents(study: Study, budgets: list[int]) -> list[Step]:
    paths = RunPaths(study)
    ct_needs = ("base", "corpus") if budgets else ("base",)
    packed = [paths.extended, paths.corpus] if study.extend_vocabulary else [paths.corpus]
    corpus = [_step(paths, "corpus", "01_ct/01_corpus", packed, ("base",), 9)]
    base = [paths.base, paths.world] if study.base_source == "scratch" else [paths.base]
    ct, sft = ({name: ""} if study.trains else {} for name in ("released_ct", "released_sft"))
    ct["keep"] = study.keep if study.keep == "all" else "chosen"  # the same to CT: not trained anew for it
    alike: dict[str, Any] = {
        "sft_parent": "base",
        "sft_x": {},
        "tasks": [],
        "dev_tasks": [],
    }  # in any language
    return [
        _shared(paths, "base", "01_ct/00_base", base, (), 60),
        *(corpus if budgets else []),
        _shared(
            paths, "sft", "01_ct/03_sft", [paths.sft], ("base",), _sft_cost(study, "sft"), **alike, **sft
        ),
        _step(paths, "ct", "01_ct/02_ct", [paths.ct()], ct_needs, 35, True, **ct),
        *(_tuned(paths, budget) for budget in budgets),
    ]


def _tuned(paths: RunPaths, budget: int) -> Step:
    name, folder = budget_name(budget), paths.ct_then_sft(budget)
    return _fine_tuned(paths, f"cts_{name}", folder, "ct", f"ct/{name}")


def _fine_tuned(paths: RunPaths, name: str, folder: Path, need: str, parent: str) -> Step:
    """SFT of a language's own: on English rows, or where `paths` are of rows in X on these."""
    rows = paths.study.sft_x_name
    values = {
        "sft_parent": parent,
        "released_sft": "",
        "sft_x": {rows: paths.study.sft_x[rows]} if rows else {},
    }
    cost = _sft_cost(paths.study, "sft" if parent == "base" else "ct_then_sft")
    return _step(paths, f"{name}{_ending(paths)}", "01_ct/03_sft", [folder], (need,), cost, True, **values)


def _ending(paths: RunPaths) -> str:
    """What ends the names of steps of an arm on rows in X."""
    return f"-x-{paths.study.sft_x_name}" if paths.study.sft_x_name else ""


def _on_rows_in_x(study: Study, name: str) -> list[Step]:
    """The arm of rows in X: SFT on them, CT-then-SFT, merges, and the scores of these."""
    paths, budgets = RunPaths(study).of_rows(name), study.ct_budgets
    trained = [_fine_tuned(paths, "sft", paths.sft, "base", "base"), *(_tuned(paths, b) for b in budgets)]
    made = [*trained, *_scores(paths.study), *_merges(paths.study)]
    needs, cost = ("base", "ct", *(step.name for step in made)), 10 * (len(study.methods) + len(budgets) + 1)
    scored = [paths.scored("sft_x")]
    return [*made, _step(paths, f"eval{_ending(paths)}", EVALUATE, scored, needs, cost, True, group="sft_x")]


def _sft_cost(study: Study, arm: str) -> float:
    """Of all candidates, each by its epochs."""
    return ONE_SFT * sum(one.epochs for one in sft_candidates(study, arm)) / study.sft_epochs


def maker(study: Study, method: str) -> str:
    """The step that makes a method: its own, or that of the first method with the same notebook."""
    notebook = find(method).notebook
    sharing = [m for m in study.methods if find(m).notebook == notebook != ANY_METHOD]
    return sharing[0] if sharing else method


def _merges(study: Study) -> list[Step]:
    """A step for every notebook that makes merges of the study; any_method makes one method a step.

    In the order of METHODS, in which a method comes after the one whose choice it starts from.
    """
    made: dict[str, list[str]] = {}
    for method in sorted(study.methods, key=[*METHODS].index):
        made.setdefault(maker(study, method), []).append(method)
    return [_merge(study, name, methods) for name, methods in made.items()]


def _scores(study: Study) -> list[Step]:
    """The step that makes scores of entries, where a method or a search asks for some."""
    paths = RunPaths(study)
    kinds, ending = scores_wanted(study), _ending(paths)
    if not kinds:
        return []
    needs = ("base", f"sft{ending}", *(("ct", "corpus") if GRAM in kinds else ()))
    return [
        _step(paths, f"importance{ending}", "02_merge/00_importance", [paths.importance], needs, 10, True)
    ]


def _merge(study: Study, name: str, methods: list[str]) -> Step:
    paths, notebook = RunPaths(study), find(name).notebook
    afters = [after.name for m in methods if (after := find(m).after)]
    ending = _ending(paths)
    needs = (*PARENTS[:2], f"{PARENTS[2]}{ending}", *(f"{maker(study, after)}{ending}" for after in afters))
    needs += (f"importance{ending}",) if any(kinds_of_method(study, m) for m in methods) else ()
    folders, cost = [paths.merge(m) for m in methods], sum(find(m).cost for m in methods)
    values = {"method": name} if notebook == ANY_METHOD else {}
    return _step(paths, f"{name}{ending}", notebook, folders, needs, cost, True, **values)


def _analysis(study: Study, tuned: tuple[str, ...]) -> list[Step]:
    paths, merges = RunPaths(study), tuple(dict.fromkeys(maker(study, m) for m in study.methods))
    groups = {"parents": ((*PARENTS, *tuned), 35), "merged": (merges, 10 * len(study.methods))}
    scored = [
        _step(paths, f"eval_{group}", EVALUATE, [paths.scored(group)], needs, cost, True, group=group)
        for group, (needs, cost) in groups.items()
    ]
    done = ("eval_parents", "eval_merged")
    discarded, last = [paths.conflicts], ("scores", "discarded")
    elections = tuple(maker(study, method) for method in elected(study))
    return [
        *scored,
        _step(paths, "scores", "03_analysis/01_scores", [paths.scores], done, 10),
        _step(paths, "discarded", "03_analysis/02_discarded", discarded, (*PARENTS, *elections), 8),
        _step(paths, "signs", "03_analysis/03_sign_conflicts", [paths.signs], ("discarded",), 6),
        _step(paths, "saturation", "03_analysis/04_saturation", [paths.saturation], ("discarded",), 6),
        _step(paths, "failures", "03_analysis/05_failures", [paths.lang / "failures"], last, 6),
        *(asked := [*_retention(study, merges), *_rows_in_x(study, done)]),
        _report(paths, (*last, "failures", *(step.name for step in asked))),
    ]


def _rows_in_x(study: Study, scored: tuple[str, ...]) -> list[Step]:
    """The step that compares the arms on rows in X, where there are any."""
    paths, needs = RunPaths(study), (*scored, *(f"eval-x-{name}" for name in study.sft_x))
    made = _step(paths, "rows_in_x", "03_analysis/09_rows_in_x", [paths.rows_in_x], needs, 8)
    return [made] if study.sft_x else []


def _retention(study: Study, merges: tuple[str, ...]) -> list[Step]:
    """The step that measures retention per task, where the study asks for it."""
    if not study.retention:
        return []
    if study.retention not in study.ct_budgets:
        raise UserError(f"retention: {study.retention:,} is none of ct_budgets, {study.ct_budgets}")
    paths, needs = RunPaths(study), (*PARENTS, *merges)
    return [_step(paths, "retention", "03_analysis/08_retention", [paths.retention], needs, 180, True)]


def _report(paths: RunPaths, needs: tuple[str, ...]) -> Step:
    return Step("report", "", paths.lang, (paths.lang / "report.html",), needs, 6)


def _together(study: Study) -> list[Step]:
    """A step for every set of languages that are merged into one model; it is the last language's."""
    return [_of_languages(study, langs) for langs in study.merge_languages if langs[-1] == study.lang]


def _sets(study: Study) -> list[Step]:
    """The step that merges sets of languages, question 2; it is the last language's."""
    langs, paths = study.set_languages, RunPaths(study)
    if not langs or langs[-1] != study.lang:
        return []
    beside = tuple(one for one in _beside(study, langs) if one[1] == "ct")
    values = {"merge_languages": [langs]}
    results = (paths.sets / MANIFEST,)
    return [
        Step("sets", "03_analysis/10_sets", paths.sets.parent, results, PARENTS, 600, True, values, beside),
    ]


def _beside(study: Study, langs: list[str]) -> list[tuple[str, str, Path]]:
    """What a step of the last of several languages needs of the others."""
    found = []
    for lang in langs[:-1]:
        other = RunPaths(study.model_copy(update={"lang": lang}))
        found += [
            (lang, "ct", other.ct() / MANIFEST),
            (lang, "eval_merged", other.scored("merged") / MANIFEST),
        ]
    return found


def _of_languages(study: Study, langs: list[str]) -> Step:
    methods, home = methods_together(study, langs), RunPaths(study).together(langs)
    results = tuple(home / name / MANIFEST for name in (*(f"merge/{m}" for m in methods), "scores"))
    beside = _beside(study, langs)
    return Step(
        f"merge_{home.name}", "02_merge/languages", home, results, (*PARENTS, "eval_merged"),
        20 * len(methods), True, {"merge_languages": [langs]}, tuple(beside),
    )  # fmt: skip


def _step(
    paths: RunPaths,
    name: str,
    notebook: str,
    folders: list[Path],
    needs: tuple[str, ...],
    cost: float,
    gpu: bool = False,
    **values: Any,
) -> Step:
    results = tuple(folder / MANIFEST for folder in folders)
    own = {"sft_x_name": paths.study.sft_x_name}
    return Step(name, notebook, paths.lang, results, needs, cost, gpu, own | values)


def _shared(
    paths: RunPaths,
    name: str,
    notebook: str,
    folders: list[Path],
    needs: tuple[str, ...],
    cost: float,
    **values: Any,
) -> Step:
    results = tuple(folder / MANIFEST for folder in folders)
    return Step(
        name, notebook, paths.shared, results, needs, cost, True, SHARED | {"sft_x_name": ""} | values
    )


def step_params(step: Step, study: Study) -> dict[str, Any]:
    """The values for the keys that the step's notebook declares, and no others."""
    values = study.model_dump() | step.values
    declared = notebook_params(step.source)
    if unknown := sorted(set(declared) - set(values)):
        raise UserError(
            f"{step.source}: declares {unknown}, which lrnb/study/parameters.py does not know; add it there"
        )
    return {key: values[key] for key in declared}


def write_stage_params(study: Study) -> dict[str, Step]:
    """Write params.yaml and params/<step>.yaml of a run; files whose content is unchanged stay untouched."""
    steps = plan(study)
    write_if_changed(RunPaths(study).lang / "params.yaml", as_yaml(study.model_dump()))
    for step in steps.values():
        if step.notebook:
            write_if_changed(step.params, as_yaml(step_params(step, study)))
    return steps


def read_study(params_yaml: Path) -> Study:
    """The Study that `write_stage_params` stored."""
    return validate(read_yaml(params_yaml), str(params_yaml))


def refuse_unused(steps: Iterable[Step], keys: Iterable[str]) -> None:
    """UserError for a key given on the command line that no notebook of this study reads."""
    used = {
        key
        for step in steps
        if step.notebook
        for key in notebook_params(step.source)
        if key not in step.values
    }
    if unused := sorted(set(keys) - used - RUNNER_KEYS):
        raise UserError(f"--set {', '.join(unused)}: no notebook of this study reads it; leave it out")


def as_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def write_if_changed(path: Path, text: str) -> bool:
    """Write `text` unless the file holds it already, so that nothing downstream looks newer."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True
