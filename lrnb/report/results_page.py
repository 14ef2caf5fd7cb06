"""docs/results.md from the files of docs/results/: what pools of seeds say, what was written of other runs.

`make results` writes it, so that no number is typed by hand. In order of their paths: `<preset>-<lang>.jsonl`
is a pool (`lrnb.analysis.pool`), those of real languages in a folder are told of together, a `.md` stands as
it is, the folder `map` is one map of pools (`lrnb.analysis.region`), and pools in `questions` are of the open
questions (`lrnb.analysis.questions`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lrnb.analysis import findings, pool, pool_answers, pool_lines, region, results, sizes
from lrnb.analysis.kinds import label
from lrnb.analysis.no_result import resting_on_scores, why_no_result
from lrnb.analysis.published import beside_the_paper
from lrnb.analysis.published_settings import against_published
from lrnb.analysis.ranking import RIVALS, ranking
from lrnb.merging.methods import METHODS
from lrnb.report.languages_section import languages_section
from lrnb.report.markdown import made_with, markdown_table, told_ends, told_p
from lrnb.report.questions_section import QUESTIONS, questions_section
from lrnb.study.parameters import ROOT, SYNTHETIC, Study, budget_name, load_study
from lrnb.study.recipe import counted_parameters, with_defaults

SIZES = "sizes"  # the folder of pools by size of model
MAP, NAMED = "map", "ties"  # the folder of a map; the method that its claim is about
FOUR = ("average", "task_arithmetic", "ties", "ties_sv")  # the paper's; more are ranked
MARGIN = Study.model_fields["margin"].default
HEAD = """# What was measured

Written by `make results` from the files of [docs/results](results). Scores are percent right. Negative
results stay in.
"""


def results_page(folder: Path) -> str:
    """The page, from everything in `folder`. UserError where a pool cannot be read."""
    parts = [HEAD]
    for path in sorted(folder.rglob("*")):
        if path == folder / MAP and any(path.glob("*/*.jsonl")):
            parts.append("\n".join(_map_section(path)))
        elif path == folder / SIZES and len(list(path.glob("*/*.jsonl"))) > 1:
            parts.append("\n".join(_sizes_section(path)))
        elif path.is_dir() and (languages := _of_real_languages(path)):
            parts.append("\n".join(languages_section(languages, MARGIN)))
        elif path.suffix == ".md":
            parts.append(path.read_text(encoding="utf-8").strip() + "\n")
        elif path.suffix == ".jsonl" and path.parent == folder / QUESTIONS:
            parts.append("\n".join(questions_section(path, MARGIN)))
        elif path.suffix == ".jsonl" and not {folder / MAP, folder / SIZES} & {*path.parents}:
            parts.append("\n".join(_pool_section(path)))
    return "\n".join(parts)


def _of_real_languages(folder: Path) -> list[Path]:
    """The pools in a folder whose languages are no invented ones."""
    found = [path for path in sorted(folder.glob("*.jsonl")) if folder.name != QUESTIONS]
    return [path for path in found if path.stem.partition("-")[2] not in SYNTHETIC]


def _sizes_section(folder: Path) -> Iterator[str]:
    """Markdown lines on sizes of model: what was run, the lead at each, what it does as the model doubles."""
    found = sizes.read_sizes(folder)
    leads = sizes.leads_by_size(found)
    yield "## Size of the model, preset nano\n"
    yield (
        f"`make size-rates` chooses the learning rates of {len(found)} sizes, `make sizes` runs them; "
        "`notebooks/03_analysis/11_sizes.ipynb` draws them. World, tokens and steps are the same. Lead over "
        "CT-then-SFT in points, 95% over seeds and items.\n"
    )
    told = (
        leads["difference"].map("{:+.1f}".format)
        + " ("
        + told_ends(leads, "ci_low", "ci_high", "{:+.1f}")
        + ")"
    )
    wide = leads.assign(told=told).pivot(index=["method", "ct_tokens"], columns="parameters", values="told")
    wide = wide.rename(columns="{:,}".format).reset_index()
    names = {"method": wide["method"].map(label), "ct_tokens": wide["ct_tokens"].map(budget_name)}
    yield from markdown_table(
        wide.assign(**names).rename(columns={"method": "model", "ct_tokens": "CT tokens"})
    )
    yield from (f"- {sentence}" for sentence in sizes.findings_of_sizes(sizes.growth_with_size(found)))
    yield ""


def _map_section(folder: Path) -> Iterator[str]:
    """Markdown lines on a map: what was run, what it says in words, the lead of TIES in every cell."""
    cells = region.read_cells(folder)
    leads, points = region.cell_leads(cells), region.seed_points(cells, NAMED)
    yield "## The region: CT tokens, SFT examples, X in the base\n"
    yield (
        f"`make map` runs its {len(cells)} cells; `notebooks/03_analysis/06_map.ipynb` draws them. Lead over "
        f"CT-then-SFT in points; {label(NAMED)} was named beforehand.\n"
    )
    why = region.why_no_cell_counts(cells)
    yield from (f"- {found['text']}" for found in findings.findings_of_map(leads, MARGIN, why))
    yield f"- {findings.finding_of_mechanism(region.foretold(points), why)['text']}\n"
    yield from markdown_table(_cells(leads[leads["method"] == NAMED]))


def _cells(leads: pd.DataFrame) -> pd.DataFrame:
    """A row a share of X and number of SFT examples, a column a CT budget: lead and half its interval."""
    half = (leads["ci_high"] - leads["ci_low"]) / 2
    told = leads["difference"].map("{:+.1f}".format) + " ± " + half.map("{:.1f}".format)
    keys = ["x_share", "sft_examples"]
    wide = leads.assign(told=told).pivot(index=keys, columns="ct_tokens", values="told").fillna("–")
    rows = wide.rename(columns=budget_name).reset_index()
    rows["x_share"] = rows["x_share"].map("{:.0%}".format)
    return rows.rename(columns={"x_share": "X in the base", "sft_examples": "SFT examples"})


def _pool_section(path: Path) -> Iterator[str]:
    """Markdown lines on a pool: what it is, what it says in words, scores and leads."""
    stored = pool.read_pool(path)
    lines = pool_lines.headline_lines(stored)
    preset, _, lang = path.stem.partition("-")
    yield f"## Preset {preset}, {lang}, {len(lines)} seed{'s' * (len(lines) != 1)}\n"
    asked = [name for name in METHODS if any(arm.startswith(f"{name}@") for arm in lines[0]["items"])]
    more = f" --set 'methods=[{', '.join(asked)}]'" if set(asked) != set(FOUR) else ""
    command = f"lrnb run params/{lang}.yaml --preset {preset}{_settings(lines[0])}{more}"
    yield from _made_from(lines, command, f"docs/results/{path.parent.name}")
    scored = pool_answers.pooled_scores(pool_answers.Pool(lines, []))
    why = why_no_result(scored)
    yield from markdown_table(_scores(scored))
    if len(lines) < 2:
        yield "A single seed is no pool yet: the intervals are over its items only.\n"
        return
    table = ranking(lines)
    if len(table) > len(FOUR):  # the tables below are of the paper's four
        yield "All methods, best mean over the tasks in X and the CT budgets first. Leads in points; wins,"
        yield "ties and losses over seeds and budgets; p after Holm's correction over the methods:\n"
        yield from ranked(table)
    settings = against_published(lines)
    if len(settings):
        yield "Methods tuned on dev against their published settings, percent right, mean over the tasks in X"
        yield "and the CT budgets; p after Holm's correction over the rows (`lrnb questions --published`):\n"
        yield from markdown_table(_published(settings))
    leads = _of_the_paper(pool_answers.pooled_leads(lines))
    yield "Merge minus CT-then-SFT at the same CT tokens, mean of the tasks in X, points:\n"
    yield from markdown_table(_leads(leads[leads["baseline"] == pool_lines.BASELINE], why))
    fades = _of_the_paper(pool_answers.pooled_fades(lines))
    faded = findings.findings_of_fades(fades, MARGIN)
    yield from (f"- {found['text']}" for found in resting_on_scores(faded, why))
    yield ""
    if set(asked) == set(FOUR):
        yield from _beside_the_paper(lines)


def _settings(line: pool_lines.Line) -> str:
    """The parameters of a run that its preset and language have otherwise, as options of `lrnb run`."""
    own = with_defaults(line["parameters"])
    file = ROOT / "params" / f"{own['lang']}.yaml"
    usual = counted_parameters(load_study(file, own["preset"])) if file.is_file() else own
    changed = [f"{key}={json.dumps(own[key])}" for key in usual if own[key] != usual[key]]
    return "".join(f" --set '{text}'" for text in changed)


def _beside_the_paper(lines: list[pool_lines.Line]) -> Iterator[str]:
    """The paper's published numbers beside the pool's, with what each could detect."""
    yield (
        "The paper's published numbers, each one number there, beside these, in points. `detectable`: the "
        "true difference that this pool finds four times out of five; `items needed`: of how many items one "
        "comparison of two models finds the paper's number so often, where as many as here are right in only "
        "one of them.\n"
    )
    table = beside_the_paper(lines)
    numbers = {name: table[name].map("{:.2f}".format) for name in ("paper", "here", "detectable")}
    needed = ["" if pd.isna(n) else f"{n:,}" for n in table["items_needed"]]
    shown = table.assign(**numbers, needed=needed, ends=told_ends(table, "ci_low", "ci_high", "{:.2f}"))
    columns = ["what", "paper", "where", "here", "ends", "seeds", "detectable", "needed"]
    yield from markdown_table(shown[columns].rename(columns={"ends": "95%", "needed": "items needed"}))


def _published(table: pd.DataFrame) -> pd.DataFrame:
    ends = told_ends(table, "ci_low", "ci_high", "{:+.1f}")
    return pd.DataFrame({
        "method": table["method"].map(label), "published setting": table["setting"],
        "source": table["source"], "seeds": table["seeds"].map(str),
        "published": table["published"].map("{:.1f}".format), "tuned": table["tuned"].map("{:.1f}".format),
        "tuned minus published": table["difference"].map("{:+.1f}".format) + " (" + ends + ")",
        "p": table["p_holm"].map(told_p),
    })  # fmt: skip


def _of_the_paper(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the paper's four methods as tuned, and of what is trained; the ranking has all."""
    if not len(table):
        return table
    return table[[method in FOUR or method.partition(" ")[0] not in METHODS for method in table["method"]]]


def _made_from(lines: list[pool_lines.Line], command: str, folder: str) -> Iterator[str]:
    """The command that makes the pool, and on what it ran."""
    numbers = sorted(line["seed"] for line in lines)
    items = sum(n for task, n in lines[0]["n"].items() if not task.endswith("_en"))
    shared = pool_lines.seeds_share_items(lines)
    own = "an order of the text and trainings" if shared else "a world, base and trainings"
    yield (
        f"`{command} --seeds {numbers[0]}-{numbers[-1]} --pool {folder}`: each seed has {own} of its own, "
        f"{items:,} test items in X. {made_with(lines)}. Intervals are of 95%, over seeds and items; p after "
        "Holm's correction over the merges and budgets.\n"
    )


def _scores(table: pd.DataFrame) -> pd.DataFrame:
    """A row a model: its means and tasks over the seeds, the mean in X with its interval."""
    table = _of_the_paper(table)
    head = results.headline(table)
    keys = ["method", "ct_tokens"]
    wide = table.pivot_table(index=keys, columns="task", values="mean", sort=False)
    ends = table[table["task"] == head].set_index(keys)
    shown = wide.map("{:.1f}".format)
    shown.insert(0, "95%", told_ends(ends, "ci_low", "ci_high", "{:.1f}"))
    return _named(shown[[head, "95%", *(task for task in shown if task not in (head, "95%"))]].reset_index())


def _leads(leads: pd.DataFrame, why: str = "") -> pd.DataFrame:
    """A row a merge and budget: its lead, interval, p, seeds, and what that means."""
    interval = told_ends(leads, "ci_low", "ci_high", "{:+.1f}")
    said = resting_on_scores(findings.findings_of_pool(leads, MARGIN), why)
    words = [found["word"] for found in said]
    p = leads["p_holm"].map(told_p)
    facts = {"lead": leads["difference"].map("{:+.1f}".format), "95%": interval, "Holm p": p}
    return _named(leads[["method", "ct_tokens"]].assign(**facts, seeds=leads["seeds"], verdict=words))


def ranked(table: pd.DataFrame) -> Iterator[str]:
    """A Markdown table of `ranking.ranking`."""
    shown = {
        "model": table["method"].map(label), "mean": table["mean"].map("{:.1f}".format),
        "95%": told_ends(table, "ci_low", "ci_high", "{:.1f}"), "seeds": table["seeds"],
    }  # fmt: skip
    for rival in RIVALS:
        lead, p = table[f"lead_{rival}"], table[f"p_{rival}"]
        known, name = lead.notna(), label(rival)
        shown[f"over {name}"] = lead.map("{:+.1f}".format).where(known, "")
        shown[f"95% ({name})"] = told_ends(table, f"low_{rival}", f"high_{rival}", "{:+.1f}").where(known, "")
        shown[f"p ({name})"] = p.map(told_p).where(known, "")
        shown[f"w / t / l ({name})"] = table[f"record_{rival}"].map(
            lambda x: " / ".join(map(str, x)) if x else ""
        )
    yield from markdown_table(pd.DataFrame(shown))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    shown = table.assign(method=table["method"].map(label), ct_tokens=table["ct_tokens"].map(budget_name))
    return shown.rename(columns={"method": "model", "ct_tokens": "CT tokens"})


if __name__ == "__main__":
    sys.stdout.write(results_page(Path(sys.argv[1])))
