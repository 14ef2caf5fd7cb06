"""What a study would need before it is started: models, texts, tokens, disk, memory, hours. Plain arithmetic.

Training one token costs 6 N operations (forward 2 N, backward 4 N), scoring one 2 N, for N parameters
(Kaplan et al. 2020, arXiv 2001.08361, table 1). The speed is this machine's (`speed`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lrnb.analysis.kinds import label
from lrnb.checkpoints.importance import GRAM
from lrnb.checkpoints.opening import open_source
from lrnb.data import fineweb
from lrnb.data.token_pieces import ENOUGH
from lrnb.errors import UserError
from lrnb.merging.task_vectors import cores
from lrnb.pipeline import memory, speed, supplies
from lrnb.pipeline.notebooks import usable_gpus
from lrnb.pipeline.steps import Step, plan
from lrnb.study.environment import UNTESTED
from lrnb.study.parameters import ENGLISH, SFT_X, SYNTHETIC, Study, scratch_parameters
from lrnb.study.stages import RunPaths
from lrnb.tasks.task_file import file_of, result_name, spec
from lrnb.tuning import search
from lrnb.tuning.entry_scores import scores_wanted

GIB = 1024**3
PACKED, KEPT = 8.1, 4.1  # bytes a token of packed text; of what is kept of a large one while it is made
SFT_TOKENS = 256  # of a usual example, prompt and answer
ITEM_TOKENS = 300  # of a usual test item with its options
MUCH_SLOWER = 1.5  # times, from which another precision is worth a word


def parameters(study: Study) -> int:
    """Number of the base's parameters; 0 where neither a table, the folder nor the name tells it."""
    source = study.base_source
    if source == "scratch":
        return scratch_parameters(study.base_width, study.base_layers, study.world_languages)
    if source in memory.KNOWN:
        return memory.KNOWN[source].parameters
    if Path(source).is_dir():
        return _entries(source)
    size = re.search(r"(\d+(?:\.\d+)?)([bm])\b", source.lower())
    return round(float(size[1]) * (1e9 if size[2] == "b" else 1e6)) if size else 0


@functools.cache
def _entries(folder: str) -> int:
    """Parameters of a model's folder, tied weights once; reads the headers."""
    model = open_source(folder, finite=False)
    return sum(array.size for name, array in model.items() if name not in model.aliases)


def _parameters(study: Study) -> str:
    whole, left = parameters(study), supplies.pruned_away(study)
    told = f"{whole / 1e6:,.1f} million"
    if left is None:
        return told + (", before its vocabulary is pruned" if study.base_prune else "")
    return f"{told}, {(whole - left) / 1e6:,.1f} million after its vocabulary is pruned"


def tokens(study: Study, *, shared: bool = True) -> dict[str, int]:
    """Tokens that each kind of work goes through; without those of base and SFT-en where not `shared`."""
    budgets = len(study.ct_budgets)
    alone, tuned = (
        search.sft_candidates(study, arm) if study.trains else [] for arm in ("sft", "ct_then_sft")
    )
    passes = {"sft": sum(one.epochs for one in alone), "ct_then_sft": sum(one.epochs for one in tuned)}
    arms = len(study.sft_x)  # each with an SFT, CT-then-SFT and merges of its own
    models = 2 + arms + (1 + (1 + arms) * (1 + len(study.methods))) * budgets  # base, SFTs; and a budget's
    tests = models * sum(study.test_limits.get(t, study.test_limit) for t in [*study.compared, *study.apart])
    sfts, scored = (len(tried) if len(tried) > 1 else 0 for tried in (alone, tuned))  # a single one is not
    in_x = (search.merges_on_dev(study) + scored) * budgets * (1 + arms) + sfts * arms
    in_x *= len(study.dev_tasks or study.tasks)
    dev = study.dev_limit * (in_x + sfts * len(study.sft_mix))
    return {
        "base": study.base_tokens if shared and study.base_source == "scratch" else 0,
        "ct": study.ct_budgets[-1] if study.trains else 0,
        "sft": _examples(study)
        * (passes["sft"] * (shared + arms) + passes["ct_then_sft"] * budgets * (1 + arms)),
        "scoring": (tests + dev) * min(ITEM_TOKENS, study.seq_len),
    }


def _examples(study: Study) -> int:
    """Tokens of SFT's examples: counted where rows and tokenizer are here, else those of usual ones."""
    usual = min(SFT_TOKENS, study.sft_max_len)
    own = sum(supplies.example_tokens(study, name) or n * usual for name, n in study.sft_mix.items())
    return own + study.sft_rows * usual


def disk_bytes(study: Study, steps: Iterable[Step]) -> int:
    """The most that `steps` hold of their own: packed text, and float32 checkpoints or tokens of it before.

    While CT trains, its two resume points with Adam's moments are there beside it and SFT; they go before
    CT-then-SFT and merges come, unless `keep` is all. Where SFT is chosen on dev, a candidate lies beside the
    best so far.
    """
    steps = list(steps)
    names = {step.name for step in steps}
    resume = 2 * 3 if "ct" in names and study.trains else 0
    budget = study.ct_budgets[-1] if "corpus" in names else 0
    before = round(KEPT * budget) if budget >= ENOUGH else 0
    found = [(kind, _written(study, kind)) for step in steps for kind in _kinds(step, study)]
    early = sum(sum(pair) for kind, pair in found if kind in ("base", "ct", "sft")) + resume
    late = sum(lasting + (spare if kind == "ct_then_sft" else 0) for kind, (lasting, spare) in found)
    late += resume if study.keep == "all" else 0
    models = round(4 * parameters(study) * max(early, late))
    return max(models, before) + round(PACKED * budget) + 50_000_000


def _kinds(step: Step, study: Study) -> list[str]:
    """The kinds of models in the folders that a step writes; none of merges that stay in memory."""
    places = [path.relative_to(step.home).parts for path in step.results]
    places = [parts[parts[0].startswith(SFT_X) :] for parts in places]
    return [parts[0] for parts in places if parts[0] != "merge" or search.stays_on_disk(study, parts[1])]


def _written(study: Study, kind: str) -> tuple[int, int]:
    """The models in a folder of that kind that stay, and those that go when its stage is whole."""
    budgets = len(study.ct_budgets) if study.trains else 1
    spare = int(study.trains and len(search.sft_candidates(study, kind)) > 1)
    each = {"base": (1, 0), "sft": (1, spare), "ct_then_sft": (1, spare), "ct": (budgets, 0)}
    each |= {"merge": (budgets, 0), "importance": (_scores_written(study), 0)}
    return each.get(kind, (0, 0))


def _scores_written(study: Study) -> int:
    """Folders of scores, each about as large as a model."""
    kinds = scores_wanted(study)
    return len(kinds) + (len(study.ct_budgets) if GRAM in kinds else 0)


def _memory(study: Study) -> str:
    """What the largest step holds: training on each device, merging two float32 models, scoring one."""
    shape = memory.shape_of(study, parameters(study))
    if not study.trains:
        return f"{(8 * parameters(study) + 2 * GIB) / GIB:,.1f} GiB"
    if shape is None:
        return f"{16 * parameters(study) / GIB:,.1f} GiB over all devices, and activations"
    devices = memory.devices_here(study)
    needed = memory.training_bytes(study, shape, devices * study.nodes)
    return f"{needed / GIB:,.1f} GiB for training{f', on each of {devices} devices' if devices > 1 else ''}"


def hours(studies: Sequence[Study], flops: float, trained_at: float = 0.0) -> float:
    """Hours of computing at `flops` operations a second; what languages of one seed share counts once.

    trained_at: operations a second of training, where they are others than those of scoring.
    """
    total = 0.0
    for study, own in _owners(studies):
        counts, passes = tokens(study, shared=own), 8 if study.activation_checkpointing else 6
        trained = 6 * counts["base"] + passes * (counts["ct"] + counts["sft"])
        total += parameters(study) * (trained / (trained_at or flops) + 2 * counts["scoring"] / flops)
    return total / 3600


def _owners(studies: Sequence[Study]) -> list[tuple[Study, bool]]:
    """Every study, and whether it is the first of its seed: the one whose base and SFT-en are made."""
    seeds = [study.seed for study in studies]
    return [(study, seeds.index(study.seed) == place) for place, study in enumerate(studies)]


def _time(studies: Sequence[Study], jobs: int | None) -> str:
    """How long studies take on this machine, or how much they compute where their device is not here."""
    study = studies[0]
    training = "8 N (6 N and activations once more)" if study.activation_checkpointing else "6 N"
    counting = f"training {training}, scoring 2 N operations a token"
    gpus = len(usable_gpus(study))
    if study.device in UNTESTED:
        return f"not known: {UNTESTED[study.device]}"
    if (study.preset == "paper" or not study.trains) and not gpus:
        work = 3600 * hours(studies, 1.0)
        return f"not known: it wants a GPU, and none is here; {work:.1e} operations ({counting})"
    kind, many = ("cuda", 1) if gpus else ("cpu", min(cores(), (jobs or cores()) * study.threads))
    try:
        flops = speed.training_flops(kind)
        trained_at = flops / _slowdown(study)
    except RuntimeError as error:  # of torch: a driver that does not fit, a GPU that is full
        return f"not known: the device cannot be measured ({str(error).splitlines()[0]})"
    what = "one GPU" if gpus else f"{many} CPU core{'s'[: many > 1]}"
    rounded = f" (training in bf16 {trained_at:.1e})" if trained_at != flops else ""
    return (
        f"{_duration(hours(studies, many * flops, many * trained_at))} on {what} at {flops:.1e} "
        f"operations/s each{rounded}, as measured on this machine; {counting}"
    )


def _slowdown(study: Study) -> float:
    """How many times slower than in float32 a core of this machine trains the study; 1 on a GPU."""
    rounded = study.trains and study.precision == "bf16" and study.device not in UNTESTED
    return speed.bf16_slowdown() if rounded and not usable_gpus(study) else 1.0


def slow_precision(study: Study) -> str:
    """What to do where this machine's processor trains in bf16 much slower than in float32; else ""."""
    if study.preset == "paper" or (slower := _slowdown(study)) < MUCH_SLOWER:
        return ""
    return f"bf16 trains {slower:.1f} times slower than fp32 on this processor; --set precision=fp32"


def _boxes(studies: Sequence[Study]) -> str:
    """Whether preset paper fits the boxes that it is sized for, and how long it takes there."""
    study = studies[0]
    shape = memory.shape_of(study, parameters(study))
    if study.preset != "paper" or shape is None:
        return ""
    found = memory.on_boxes(study, shape, 3600 * hours(studies, 1.0))
    return f"{found} (at {memory.SHARE:.0%} of {memory.PEAK:.3g} operations/s each, which is not measured)"


def _duration(value: float) -> str:
    return f"{value:,.1f} hours" if value >= 1 else f"{60 * value:.1f} minutes"


def _sources(study: Study) -> dict[str, str]:
    """Every model and data set of the study, by what it is for."""
    found = {"base": study.base_source}
    if not study.trains:
        known = {f"CT weights, {study.lang}": study.released_ct or "none released"}
        known["SFT weights"] = study.released_sft
        return found | known
    if study.corpus_source == "hub":
        found |= _hub_texts(study)
    elif study.lang in SYNTHETIC:
        found[f"text, {study.lang}"] = "the micro-world, generated"
    elif supplies.data_is_known(study):
        found |= _texts(study)
    else:
        found[f"text, {study.lang}"] = "MISSING: no data root, see below"
    mix = ", ".join(f"{n:,} {_called(task)}" for task, n in study.sft_mix.items())
    in_x = {f"SFT, {study.lang}, {name}": f"as many of {folder}" for name, folder in study.sft_x.items()}
    if study.sft_dataset:
        found["instructions"] = f"{study.sft_rows:,} rows of {study.sft_dataset}"
    return found | {"SFT, en": f"{mix} (English rows of the data root, or of the Hub)"} | in_x


def _called(name: str) -> str:
    """A task as results call it: one of a file by its own name, not its path."""
    return result_name(name, spec(name)) if file_of(name) else name


def _hub_texts(study: Study) -> dict[str, str]:
    try:
        named = {study.lang: fineweb.hub_text(study), ENGLISH: fineweb.hub_text_en(study)}
    except UserError:  # told by preflight
        return {f"text, {study.lang}": "not named, see below"}
    return {f"text, {lang}": " ".join(filter(None, text[:4])) for lang, text in named.items()}


def _texts(study: Study) -> dict[str, str]:
    try:
        return {f"text, {one.lang}": str(one) for one in supplies.corpus_supplies(study)}
    except UserError:  # told by preflight, with all else that is wrong
        return {"text": "missing or too little, see below"}


def _tried(study: Study) -> str:
    """How many candidates of every arm are tried on dev."""
    merges = {name: len(search.candidate_grid(study, name)) for name in study.methods}
    trained = ("sft", "ct_then_sft") if study.trains else ()
    arms = {arm: len(search.sft_candidates(study, arm)) for arm in trained}
    return ", ".join(f"{label(arm)} {count}" for arm, count in (arms | merges).items())


def describe(
    studies: Sequence[Study], todo: Iterable[tuple[Study, Step]], jobs: int | None = None
) -> list[tuple[str, str]]:
    """Rows for `lrnb run --dry-run`: label and value, of all studies together.

    studies: every language and seed; todo: the steps that would run, a shared one with its first study;
    jobs: notebooks at once, None for as many as there are cores.
    """
    study, counts = studies[0], _summed(studies)
    every = [(one, step) for one, own in _owners(studies) for step in _own_steps(one, own)]
    whole, left = _disk(every), _disk(todo)
    sizes = [
        ("parameters", _parameters(study)),
        (
            "disk",
            f"{whole / GIB:,.1f} GiB at most (float32 checkpoints, packed text; keep: {study.keep}), "
            f"{left / GIB:,.1f} GiB of it to be written",
        ),
        ("memory", _memory(study)),
        ("time", _time(studies, jobs)),
        *([("precision", slow)] if (slow := slow_precision(study)) else []),
        *([("on GPUs of", boxes)] if (boxes := _boxes(studies)) else []),
    ]
    if not parameters(study):
        sizes = [("size", "unknown: the base is neither a local folder nor named with its size")]
    languages = list({one.lang: one for one in studies}.values())
    sources = {name: value for one in languages for name, value in _sources(one).items()}
    asked = [f"{_called(t)} ({one.lang})" for one in languages for t in one.tasks]
    asked += dict.fromkeys(f"{_called(t)} (en)" for one in languages for t in one.tasks_en)
    apart = dict.fromkeys(_called(t) for one in languages for t in one.apart)
    return [
        *sources.items(),
        ("test tasks", ", ".join(asked)),
        *([("tasks in no mean", ", ".join(apart))] if apart else []),
        ("CT budgets", "; ".join(dict.fromkeys(map(_budgets, languages)))),
        ("tried on dev", "; ".join(dict.fromkeys(map(_tried, languages)))),
        *((f"tokens, {name}", f"{count:,}") for name, count in counts.items() if count),
        *sizes,
    ]


def _budgets(study: Study) -> str:
    return ", ".join(f"{budget:,}" for budget in study.ct_budgets) + " tokens"


def _summed(studies: Sequence[Study]) -> dict[str, int]:
    """`tokens` of all studies; base and SFT-en of each seed once."""
    every = [tokens(study, shared=own) for study, own in _owners(studies)]
    return {name: sum(counts[name] for counts in every) for name in every[0]}


def _own_steps(study: Study, shared: bool) -> list[Step]:
    home = RunPaths(study).shared
    return [step for step in plan(study).values() if shared or step.home != home]


def _disk(steps: Iterable[tuple[Study, Step]]) -> int:
    """Bytes that steps of several studies write."""
    by_study: dict[tuple[str, int], tuple[Study, list[Step]]] = {}
    for study, step in steps:
        by_study.setdefault((study.lang, study.seed), (study, []))[1].append(step)
    return sum(disk_bytes(study, own) for study, own in by_study.values())
