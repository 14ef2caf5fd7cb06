"""The page of all languages and seeds of a preset in one folder of runs: `<runs>/<preset>.html`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrnb.analysis import crossing, failures, findings, languages, results, sets_kept, together
from lrnb.analysis.comparisons import ONE_SEED
from lrnb.analysis.kinds import ordered
from lrnb.analysis.no_result import NO_RESULT, all_collapsed, resting_on_scores, what_to_try, why_no_result
from lrnb.errors import UserError
from lrnb.figures.failures import shares_across_languages
from lrnb.figures.language_sets import kept_by_overlap, kept_by_size
from lrnb.figures.languages import leads_by_knowledge, leads_heatmap, shares_of_languages
from lrnb.figures.pooled import pooled_leads_by_budget
from lrnb.report.page import fill
from lrnb.report.tables import known_records
from lrnb.study.files import MANIFEST, write_text
from lrnb.study.parameters import ENGLISH, PRESETS, SYNTHETIC, Study, budget_name
from lrnb.study.run_folder import study_of
from lrnb.study.stages import RunPaths, stale

NEEDED = ("scores", "conflicts", "failures")  # folders of a run that the page reads


def write_pages(runs: Path) -> list[Path]:
    """Write the page of every preset that has a finished run in `runs`; returns their paths.

    UserError where there is none, or where `runs` is no folder of runs.
    """
    written = [write_page(runs, preset) for preset in PRESETS if any(finished(runs_of(runs, preset)))]
    if not written:
        raise UserError(
            f"{runs}: no finished run in it. Give a folder of runs (runs) or one run (runs/<preset>/<lang>), "
            f"or run the study first: lrnb run params/<lang>.yaml params/<lang>.yaml{_deeper(runs)}"
        )
    return written


def _deeper(runs: Path) -> str:
    """Folders of runs of one language each, as `lrnb new` sets them up, for a message."""
    inside = [path for path in sorted(runs.glob("[!.]*")) if path.is_dir()]
    own = [path for path in inside if any(finished(runs_of(path, preset)) for preset in PRESETS)]
    return f". Finished runs are in {', '.join(map(str, own))}: give one of these" if own else ""


def write_page(runs: Path, preset: str) -> Path:
    """Write `<runs>/<preset>.html` from the runs that are finished there."""
    return write_content(runs, preset, content_of(runs, preset))


def write_content(runs: Path, preset: str, content: dict[str, Any]) -> Path:
    out = runs / f"{preset}.html"
    write_text(out, fill("languages.html.jinja", content, runs))
    return out


def runs_of(runs: Path, preset: str) -> list[Study]:
    """The studies of a preset in a folder of runs, finished or not, by language and seed."""
    roots = [root for root in runs.glob(f"{preset}*") if root.name.partition("-seed")[0] == preset]
    found = [study_of(path.parent) for root in roots for path in root.glob("*/params.yaml")]
    return sorted(found, key=lambda study: (study.lang, study.seed))


def finished(studies: Iterable[Study]) -> list[Study]:
    """Those whose scores, atlas and failures are there."""
    return [
        study for study in studies
        if all((RunPaths(study).lang / name / MANIFEST).is_file() for name in NEEDED)
    ]  # fmt: skip


def missing(there: Iterable[Study], told: Iterable[Study]) -> list[str]:
    """Every language with a seed that the page lacks, of all languages and seeds that are in the folder."""
    there = [*there]
    have, langs = {(s.lang, s.seed) for s in told}, dict.fromkeys(s.lang for s in there)
    seeds = sorted({study.seed for study in there})
    begun = {(s.lang, s.seed) for s in there}
    lacking = [(lang, seed) for lang in langs for seed in seeds if (lang, seed) not in have]
    return [f"{lang}, seed {seed} ({'not finished' if (lang, seed) in begun else 'not begun'})"
            for lang, seed in lacking]  # fmt: skip


def content_of(runs: Path, preset: str) -> dict[str, Any]:
    """What the template shows; `frames`: its tables."""
    there = runs_of(runs, preset)
    told, others = languages.of_one_study(finished(there))
    if not told:
        raise UserError(f"{runs}: no finished run of preset {preset} in it")
    found = languages.read_languages(told)
    leads, over_all = languages.leads_by_language(found), languages.leads_over_languages(found)
    main = leads["baseline"].iloc[0] if len(leads) else ""
    points, slopes = languages.leads_against(leads[leads["baseline"] == main], languages.known_by_base(found))
    shares = languages.shares_by_language(found)
    scores, fades = languages.scores_by_language(found), languages.fades_over_languages(found)
    families = languages.leads_by_family(found)
    own = over_all[over_all["baseline"] == main] if len(over_all) else over_all
    first, names = told[0], {study.lang: study.lang_name or study.lang for study in told}
    untold = _without_results(scores, found, names)
    why = "No language has a result" if len(untold) == len(found) else ""
    crossed = crossing.crossings_over_languages(found) if not why else pd.DataFrame()
    frames = {"scores": scores, "leads": leads, "leads_over_languages": over_all, "fades": fades}
    frames |= {"crossings": crossed}
    frames |= {"families": families, "known_by_base": points, "slopes": slopes, "shares": shares}
    return {
        "preset": preset,
        "frames": frames,
        "languages": {lang: [*seeds] for lang, seeds in found.items()},
        "names": names,
        "untold": untold,
        "pages": _pages(runs, told),
        "common": languages.common_seeds(found),
        "budgets": [budget_name(b) for b in first.ct_budgets],
        "missing": missing(there, [*told, *(s for s in there if RunPaths(s).lang.as_posix() in others)]),
        "others": {os.path.relpath(name, runs): keys for name, keys in others.items()},
        "stale": [change for s in told for change in stale(RunPaths(s).scores, RunPaths(s).conflicts)],
        "synthetic": bool(set(found) & set(SYNTHETIC)),
        "margin": first.margin,
        "main": main,
        "one_seed": bool(len(own)) and (own["noise"] == ONE_SEED).all(),
        "said": resting_on_scores(_said(own, fades, first.margin), why),
        "table": _table(scores, found),
        "methods": ordered(scores["method"]),
        "leads": known_records(
            own.assign(verdict=NO_RESULT if why else _verdicts(own, first.margin)) if len(own) else own
        ),
        "crossings": crossing.findings_of_crossings(crossed),
        "all_baselines": known_records(over_all),
        "families": known_records(families),
        "slopes": known_records(slopes),
        "shares": known_records(shares),
        "together": known_records(_together(told)),
        "sets": _sets(told),
        "figures": _figures(
            leads[leads["baseline"] == main], own, points, slopes, shares, RunPaths(first).root
        ),
    }


def _together(told: Iterable[Study]) -> pd.DataFrame:
    """What one model for several languages loses or wins, by seed; means of the tasks in X and in English."""
    roots = dict.fromkeys((study.seed, RunPaths(study).root) for study in told)
    found = results.joined([together.read_together(root).assign(seed=seed) for seed, root in roots])
    return found[found["task"].isin([results.MEAN, results.MEAN_EN])] if len(found) else found


def _sets(told: Sequence[Study]) -> dict[str, Any]:
    """What sets of languages keep in one merge, over the seeds that measured it; else no figures."""
    paths = [RunPaths(study) for study in {study.seed: study for study in told}.values()]
    read = [sets_kept.read_sets(one.sets) for one in paths if (one.sets / MANIFEST).is_file()]
    if not read:
        return {"figures": []}
    keys = ["one", "other"]
    foretold = pd.concat([table for _, table in read]).groupby(keys, sort=False).mean().reset_index()
    answers = sets_kept.in_all([found for found, _ in read])
    shared = not {study.lang for study in told} & set(SYNTHETIC)
    kept = sets_kept.kept_by_sets(answers, foretold, shared=shared)
    relation = sets_kept.relation_of_pairs(kept)
    drawn = [kept_by_size(kept), kept_by_size(kept, ENGLISH), kept_by_overlap(kept, "cosine")]
    figures = [*drawn, kept_by_overlap(kept, "conflict_share")]
    said = sets_kept.findings_of_sets(kept, relation)
    return {"figures": [fig for fig in figures if fig.data], "said": said, "seeds": len(read)}


def _pages(runs: Path, told: Iterable[Study]) -> dict[tuple[str, int], str]:
    """(language, seed) -> the address of its own page from here, where it is there."""
    found = {(s.lang, s.seed): RunPaths(s).lang / "report.html" for s in told}
    return {key: os.path.relpath(path, runs) for key, path in found.items() if path.is_file()}


def _without_results(
    scores: pd.DataFrame, found: languages.Languages, names: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Why the scores of a language, over its seeds, compare nothing, and what to try; of those languages.

    scores: of `languages.scores_by_language`.
    """
    untold = []
    for lang, runs in found.items():
        fallen = all(all_collapsed(run.scores) for run in runs.values())
        own = scores[scores["lang"] == lang].assign(task=results.MEAN, collapsed=fallen)
        if why := why_no_result(own, names[lang]):
            untold.append((why, what_to_try(next(iter(runs.values())).study)))
    return untold


def _verdicts(rows: pd.DataFrame, margin: float) -> list[str]:
    return [findings.verdict_of(row, row["noise"], margin) for row in rows.to_dict("records")]


def _said(leads: pd.DataFrame, fades: pd.DataFrame, margin: float) -> list[findings.Finding]:
    """What the languages say together, in sentences."""
    found = (
        findings.findings_of_pool(leads.sort_values("ct_tokens", kind="stable"), margin) if len(leads) else []
    )
    return found + (findings.findings_of_fades(fades, margin) if len(fades) else [])


def _table(scores: pd.DataFrame, found: languages.Languages) -> dict[str, Any]:
    """CT budget -> method -> language -> the row of scores; chance and majority of every language."""
    columns = [*found, *([languages.ALL] if languages.ALL in set(scores["lang"]) else [])]
    ranked = scores.groupby(["lang", "ct_tokens"])["value"]
    best = (scores["value"] == ranked.transform("max")) & (ranked.transform("size") > 1) & scores["clear"]
    marked = scores.assign(best=best)
    groups: dict[int, dict[str, dict[str, Any]]] = {}
    for tokens, own in marked.groupby("ct_tokens"):
        rows = {m: own[own["method"] == m].set_index("lang").to_dict("index") for m in ordered(own["method"])}
        groups[int(str(tokens))] = rows
    levels = scores.groupby("lang", sort=False)[["chance", "majority"]].first()
    return {
        "columns": columns,
        "groups": groups,
        "levels": levels.astype(object).where(levels.notna(), None).to_dict("index"),
    }


def _figures(
    leads: pd.DataFrame, own: pd.DataFrame, points: pd.DataFrame, slopes: pd.DataFrame, shares: pd.DataFrame,
    root: Path,
) -> dict[str, Any]:  # fmt: skip
    asked = (
        ("unparsable", "replaced", "written answers with broken bytes"),
        ("scripts", "wrong", "written answers in another script"),
    )
    failed = [(failures.across_languages(root, name), column, what) for name, column, what in asked]
    return {
        "heat": leads_heatmap(leads) if len(leads) else None,
        "leads": pooled_leads_by_budget(own) if len(own) else None,
        "knowledge": leads_by_knowledge(points, slopes) if len(points) else None,
        "shares": shares_of_languages(shares),
        "failures": [shares_across_languages(*one, f"{one[-1]} (%)") for one in failed],
    }
