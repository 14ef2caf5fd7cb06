"""A pool of seeds: one small file that keeps which items every run had right, and which runs may join it.

A line a run: a seed on one instruction set, with what it was made from. The first line is no run: it counts
them, and says for every number of the headline whether two instruction sets agree. Runs are pooled where
three things are equal: the parameters that results depend on, text and items (`source_hash`), and the
recipe's number (lrnb/study/recipe.py).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrnb.analysis import comparisons, results
from lrnb.analysis.instruction_sets import agreement
from lrnb.analysis.pool_lines import Line, arm_name, arms, drawn_rows, key, packed
from lrnb.data import microworld
from lrnb.data.lines import json_lines
from lrnb.errors import UserError
from lrnb.study.environment import UNTESTED, instruction_set
from lrnb.study.files import digest, lock, make_folder, write_text
from lrnb.study.parameters import ENGLISH, SYNTHETIC, Study
from lrnb.study.recipe import RECIPE, counted_parameters, searches, with_defaults
from lrnb.study.stages import RunPaths, read_manifest

MADE_BY = ("base", "sft", "ct", "ct_then_sft", "merge", "scored")  # stages that decide which items are right
ABOUT = "items right or wrong (bits in the order of the items, base64), a line a run; lrnb/analysis/pool.py"
SHARES = ("ct_l2", "sft_l2", "cosine", "conflict_share", "sft_discarded_share")  # of lrnb.conflicts.counts


def read_pool(path: Path) -> list[Line]:
    """The runs of a pool; none where there is no file. UserError names the line that cannot be read."""
    if not path.is_file():
        return []
    found = []
    for number, line in json_lines(path):
        try:
            found += [] if "about" in line else [line | {"seed": int(line["seed"]), "isa": str(line["isa"])}]
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}:{number}: no run of a pool. Take the file from git again, or remove the line"
            ) from None
    return found


def write_pool(path: Path, lines: Iterable[Line]) -> None:
    """Write a pool atomically: what it says in the first line, then the runs by seed and instruction set."""
    lines = sorted(lines, key=lambda line: (line["seed"], line["isa"]))
    body = [{"about": ABOUT} | agreement(lines), *lines]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in body))


def run_line(study: Study) -> Line:
    """The line of a finished run. UserError where its steps were made on different instruction sets."""
    paths = RunPaths(study)
    items = pd.read_parquet(
        paths.scores / "items.parquet", columns=["method", "ct_tokens", "task", "item", "correct"]
    )
    right = comparisons.right_answers(items)
    own = {arm_name(*model): tasks for model, tasks in right.items() if arm_name(*model) in arms(study)}
    first = next(iter(own.values()))
    return run_head(study, read_manifest(paths.scores)) | {
        "search": searches(study),
        "n": {task: len(values) for task, values in first.items()},
        "rows": drawn_rows(first),
        **_levels(paths),
        "items": {
            name: {task: packed(values) for task, values in tasks.items()} for name, tasks in own.items()
        },
        "bits": _bits(study),
        "shares": _shares(study),
    }


def run_head(study: Study, made: Mapping[str, Any]) -> Line:
    """What a line says of its run before what it holds; made: the manifest of its last stage."""
    return {
        "seed": study.seed,
        "isa": made_on(study),
        "processor": made.get("processor", ""),
        "recipe": made.get("recipe", RECIPE),
        "world": source_hash(study),
        "versions": made["versions"],
        "parameters": counted_parameters(study),
    }


def _levels(paths: RunPaths) -> dict[str, dict[str, Any]]:
    """Of every task the chance level and, where it has one, the majority level in percent; and its family."""
    table = pd.read_csv(paths.scores / "scores.csv").drop_duplicates("task").set_index("task")
    own = table.drop(index=[mean for mean in (results.MEAN, results.MEAN_EN) if mean in table.index])
    return {
        name: own[name].dropna().to_dict() for name in ("chance", "majority", "family") if name in own.columns
    }


def _bits(study: Study) -> dict[str, dict[str, float]]:
    """Bits per byte of every arm by language."""
    groups = [RunPaths(study).scored(name) / "bits_per_byte.csv" for name in ("parents", "merged")]
    table = results.joined([pd.read_csv(path) for path in groups])
    found: dict[str, dict[str, float]] = {}
    for row in table.itertuples():
        found.setdefault(arm_name(row.method, row.ct_tokens), {})[row.lang] = round(row.bits_per_byte, 4)
    return {name: values for name, values in found.items() if name in arms(study)}


def _shares(study: Study) -> dict[str, dict[str, float]]:
    """`SHARES` of the whole model at every CT budget, at the setting that is the same for all budgets."""
    table = results.of_the_model(pd.read_csv(RunPaths(study).conflicts / "shares.csv"), "fixed")
    found = table.set_index("ct_tokens")[list(SHARES)].round(5)
    return {str(tokens): row.to_dict() for tokens, row in found.iterrows()}


def made_on(study: Study) -> str:
    """The instruction set that a run's models and scores were made on; this machine's where none says so."""
    own = _sets(study)
    if len(found := sorted(set(own.values()))) > 1:
        told = "; ".join(f"{isa}: {', '.join(s for s in own if own[s] == isa)}" for isa in found)
        raise UserError(
            f"{RunPaths(study).lang}: its steps were made on different instruction sets ({told}), which move "
            "results: no one line of a pool. Run it whole in another folder: --set runs=OTHER"
        )
    return found[0] if found else instruction_set()


def _sets(study: Study) -> dict[str, str]:
    """Stage -> instruction set, of the finished stages of a run that decide which items are right."""
    stages = results.finished_stages(RunPaths(study), study.ct_budgets)
    return {s["stage"]: s["isa"] for s in stages if s["stage"].split("/")[1] in MADE_BY and s["isa"]}


def refuse_other_set(study: Study, isa: str) -> None:
    """UserError where steps of the run stand there that were made on another instruction set than `isa`."""
    if others := {stage: made for stage, made in _sets(study).items() if made != isa}:
        stage, made = next(iter(others.items()))
        raise UserError(
            f"{RunPaths(study).root / stage} was made on {made}, and this is {isa}: runs on {isa} need a "
            "folder of their own: --set runs=OTHER"
        )


def with_run(lines: Sequence[Line], new: Line) -> list[Line]:
    """`lines` with `new`: in place of the run of this seed and set, or adding its methods to it.

    UserError where both hold an arm, with other answers, and the new run lacks arms of the old one: those
    would be paired with parents that are not theirs.
    """
    old = next((line for line in lines if key(line) == key(new)), None)
    others = [line for line in lines if key(line) != key(new)]
    if old is None or old["items"].keys() <= new["items"].keys():
        return [*others, new]
    if moved := _moved(new, old):
        raise UserError(
            f"seed {new['seed']} on {new['isa']}: {', '.join(moved)} give other answers here "
            f"({new['processor']}) than in the pool ({old['processor']}), so no methods can be added. "
            "Run all methods of that line, or give another folder for the pool"
        )
    parts = [part for part in ("search", "items", "bits", "counts") if part in new]
    both = {part: old.get(part, {}) | new[part] for part in parts}
    return [*others, old | both]


def add_run(study: Study, path: Path) -> None:
    """Write a finished run into the pool at `path`, with what others have put there meanwhile."""
    add_line(study, path, run_line(study))


def add_line(study: Study, path: Path, new: Line) -> None:
    """Write what a run of `study` holds into the pool at `path`. UserError where it does not belong there."""
    refuse_misfit(study, path)
    if new["recipe"] != RECIPE:
        raise UserError(
            f"{RunPaths(study).lang} was made with recipe {new['recipe']} and the code has {RECIPE}: run it "
            "again without --keep-code"
        )
    make_folder(path.parent)
    with lock(path):
        write_pool(path, with_run(read_pool(path), new))


def add_pools(path: Path, files: Sequence[Path]) -> None:
    """Write the runs of several pools of one study into the pool at `path`, each once.

    UserError names the file whose runs do not go with those before it, or hold other answers of one of them.
    """
    make_folder(path.parent)
    with lock(path):
        joined = read_pool(path)
        for file in files:
            joined = _joined(joined, file)
        write_pool(path, joined)


def _joined(lines: Sequence[Line], file: Path) -> list[Line]:
    """The runs of a pool, and those of a file."""
    joined = list(lines)
    if not (more := read_pool(file)):
        raise UserError(f"{file}: no runs are in it. Give files that lrnb run --pool has written")
    for line in more:
        name = f"{file}: seed {line['seed']} on {line['isa']}"
        if why := mismatches(line | {"parameters": with_defaults(line["parameters"])}, joined):
            raise UserError(f"{name} was made with other {'; '.join(why)}. Leave the file out")
        if moved := _moved(line, next((old for old in joined if key(old) == key(line)), line)):
            raise UserError(
                f"{name} has other answers of {', '.join(moved)} than a file before it: two runs that should "
                "be the same. Leave one out, or run it again without --keep-code"
            )
        joined = with_run(joined, line)
    return joined


def _moved(new: Line, old: Line) -> list[str]:
    """The models of which two lines hold other answers."""
    return sorted(a for a in old["items"].keys() & new["items"].keys() if old["items"][a] != new["items"][a])


def source_hash(study: Study) -> str:
    """Hash of the text and items that a study is made from.

    The micro-world's; else of the data root's files in its language and in English, where it is there: their
    content, whatever the compression, and of every task, since text that holds items is dropped. Data sets of
    the Hub count by the parameters that name them.
    """
    if study.lang in SYNTHETIC:
        return world_hash()
    root = Path(study.data_root or os.environ.get("LRNB_DATA", ""))
    return _files_hash(root, (study.lang, ENGLISH))


@functools.cache
def _files_hash(root: Path, langs: tuple[str, ...]) -> str:
    names = ["sft/*", *(f"{kind}/{lang}*" for kind in ("corpus", "eval/*") for lang in langs)]
    return digest(
        {
            path.relative_to(root).as_posix().removesuffix(".gz"): _content_hash(path)
            for name in names for start in root.glob(name) for path in [start, *start.rglob("*")]
            if path.is_file()
        }
    )[:16]  # fmt: skip


def _content_hash(path: Path) -> str:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


@functools.cache
def world_hash() -> str:
    """Hash of the text and items of a small micro-world of seed 0, as the code makes it now.

    Its sizes and the study's own values are parameters, which are compared by themselves; the same code and
    parameters give every seed the same world. So a second is enough, and gzip's bytes do not count.
    """
    with tempfile.TemporaryDirectory() as folder:
        microworld.write_world(Path(folder), base_tokens=3000, ct_tokens=3000, dev=20, test=20, sft=20)
        files = sorted(path for path in Path(folder).rglob("*.jsonl*") if path.is_file())
        return digest({path.relative_to(folder).as_posix(): _text(path) for path in files})[:16]


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def misfits(study: Study, lines: Sequence[Line], recipe: int | None = RECIPE) -> list[str]:
    """In what a study, run with `recipe`, differs from the runs of a pool, in words; [] where it fits."""
    if not lines:
        return []
    made = {"parameters": counted_parameters(study), "search": searches(study)}
    return mismatches(made | {"world": source_hash(study), "recipe": recipe}, lines)


def mismatches(own: Line, lines: Sequence[Line]) -> list[str]:
    """In what `own` (parameters, search, world, recipe) differs from the runs of a pool, in words."""
    found = []
    for line in lines[:1]:
        here, there = own["parameters"], with_defaults(line["parameters"])
        names = [name for name in here | line["parameters"] if here.get(name) != there.get(name)]
        found += [f"{name} ({here.get(name)} here, {there.get(name)} in the pool)" for name in names]
        if line["world"] != own["world"]:
            found.append("text and items")
        if line["recipe"] != (recipe := own["recipe"]):
            told = "not recorded" if recipe is None else recipe
            found.append(
                f"recipe of training, merging and judging ({told} here, {line['recipe']} in the pool)"
            )
    tried = own["search"]
    others = [
        name for line in lines for name in tried if line["search"].get(name, tried[name]) != tried[name]
    ]
    return found + [f"search of {name}" for name in dict.fromkeys(others)]


def refuse_misfit(study: Study, path: Path) -> list[Line]:
    """The runs of a pool that `study` may join; UserError with what differs, and what to do."""
    lines = read_pool(path)
    if study.device in UNTESTED:
        raise UserError(f"--pool takes no runs of device {study.device}, which is untested: --set device=cpu")
    if why := misfits(study, lines):
        raise UserError(
            f"{path}: its {len(lines)} runs do not go with this study. It has other {'; '.join(why)}. Give "
            "another folder: --pool OTHER"
        )
    return lines


def recipe_of(study: Study) -> int | None:
    """The recipe that a finished run was made with; None where it is not recorded."""
    return read_manifest(RunPaths(study).scores).get("recipe")
