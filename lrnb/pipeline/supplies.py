"""What a study will read, looked at before anything is computed: rows of tasks and of SFT, text for CT."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lrnb.checkpoints.tokenizer_probe import refuse_endless
from lrnb.checkpoints.vocabulary import pruned_sizes
from lrnb.data import cleaning, corpus, packing
from lrnb.data.contamination import Items
from lrnb.data.language_check import language_checks
from lrnb.errors import UserError
from lrnb.study.files import default_cache, digest, remembered
from lrnb.study.parameters import ENGLISH, Study
from lrnb.study.stages import RunPaths
from lrnb.tasks import instruction_sets, loading, rows
from lrnb.tasks.evaluation_items import items_of_study
from lrnb.tasks.row_forms import any_rows
from lrnb.tasks.sft_rows import rows_in_x
from lrnb.tasks.task_file import TaskSpec, asked_in, result_name, spec
from lrnb.tasks.vocabulary_texts import data_texts, row_files
from lrnb.tuning import on_dev
from lrnb.tuning.search import sft_candidates

READ = 100_000_000  # characters of a corpus that are looked at, at most
COUNTED = 4_000_000  # of them those that are cleaned and counted in tokens
BATCH = 200  # documents tokenized at once
FEW_DOCUMENTS = 10  # so few are often one text that was not cut into documents
SPLITS = ("test", "dev", "train")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
Check = Callable[[], object]  # raises UserError where something is missing or wrong


class Supply(NamedTuple):
    """Text of one language. Tokens: None where no tokenizer is at hand; `whole`: all of it was counted."""

    lang: str
    path: Path
    tokens: int | None
    needed: int
    whole: bool

    def __str__(self) -> str:
        size = f"{self.path.name}, {self.path.stat().st_size / 1e6:,.1f} MB"
        if self.tokens is None:
            return f"{size}; {self.needed:,} tokens needed, not counted (the base is not here yet)"
        there = f"{'' if self.whole else 'at least '}{self.tokens:,} there"
        enough = not self.whole and self.tokens >= self.needed  # counting ended there
        return f"{size}; {self.needed:,} tokens needed, {'enough is there' if enough else there}"


def data_is_known(study: Study) -> bool:
    """Whether there is a data root with an eval/ in it."""
    root = study.data_root or os.environ.get("LRNB_DATA", "")
    return bool(root) and Path(root, "eval").is_dir()


def row_checks(study: Study, *, hub: bool) -> Iterator[Check]:
    """What reads the rows that the study will ask or train on, a call a task; each raises UserError.

    hub: also what is not in local files but on the Hub, or of the harness; else that is left out.
    """
    for name in [*study.compared, *study.apart]:
        yield partial(_read_task, study, "test", hub, name)
    yield from _dev_checks(study, hub, on_dev.dev_tasks)
    if study.trains:
        if len(sft_candidates(study, "sft")) > 1:
            yield from _dev_checks(study, hub, on_dev.dev_tasks_en)
        if hub or instruction_sets.mirror_of(study, RunPaths(study).data_root).is_dir():
            yield partial(instruction_sets.refuse_missing_set, study, RunPaths(study).data_root)
        for name, n in study.sft_mix.items():
            if hub or not rows.sft_from_hub(spec(name), RunPaths(study).data_root):
                yield partial(rows.sft_examples, name, n, RunPaths(study).data_root, study.seed)
    yield from _file_checks(study)


def checks_of_rows_in_x(study: Study) -> Iterator[Check]:
    """What reads the rows in X that SFT is asked to train on, a call a folder and task."""
    for name in study.sft_x:
        try:
            own = rows_in_x(study, name)
        except UserError:
            yield partial(rows_in_x, study, name)  # told with the rest
            continue
        for task, n in study.sft_mix.items():
            yield partial(own.examples, task, n, study.seed)


def asked_tasks(study: Study) -> Iterator[tuple[str, TaskSpec, str]]:
    """Name in results, task and language of all that a study asks or chooses on, but for the harness's tasks.

    Those whose files are wrong are told where their rows are read.
    """
    dev = (name for name in study.dev_tasks if name not in study.tasks)
    for name in [*study.compared, *study.apart, *dev]:
        if loading.is_harness(name):
            continue
        with contextlib.suppress(UserError):
            task = spec(name)
            yield result_name(name, task), task, asked_in(name, task, study.lang)


def _file_checks(study: Study) -> Iterator[Check]:
    """What reads whole local files: every split of a task, and all rows that the base's vocabulary is of."""
    root = RunPaths(study).data_root
    for _, task, lang in asked_tasks(study):
        for split in SPLITS:
            if rows.local_file(task, lang, split, root).is_file():
                yield partial(rows.split_rows, task, lang, split, root, study.seed)
    if study.base_prune:
        yield from (partial(_read_through, path) for path in row_files(root))


def _read_through(path: Path) -> None:
    for _ in any_rows(path):
        pass


def _dev_checks(study: Study, hub: bool, chosen: Callable[[Study], list[str]]) -> Iterator[Check]:
    try:
        names = chosen(study)
    except UserError:
        yield partial(chosen, study)  # there are none: told with the rest
        return
    for name in names:
        yield partial(_read_task, study, "dev", hub, name)


def _read_task(study: Study, split: str, hub: bool, name: str) -> None:
    root = RunPaths(study).data_root
    given: dict[str, Any] = {key: getattr(study, key) for key in loading.STUDY}
    if not (hub or loading.is_local(name, study.lang, root, split, study.script)):
        return
    (task,) = loading.load_tasks([name], study.lang, root, split=split, **given).values()
    loading.refuse_misplaced(study, name, task.task_name, writes=task.writes)


def corpus_supplies(study: Study) -> list[Supply]:
    """The local text that CT will read, in X and English. UserError where it is less than CT asks for."""
    return [supply(study, lang, needed) for lang, needed in needed_text(study).items()]


def needed_text(study: Study) -> dict[str, int]:
    """Language -> tokens of local text that CT asks for at most."""
    if not study.trains or study.corpus_source != "local":
        return {}
    share = study.english_ratio / (study.english_ratio + 1) if study.english_ratio else 1.0
    needed = {study.lang: round(share * study.ct_budgets[-1])}
    return needed | ({ENGLISH: study.ct_budgets[-1] - needed[study.lang]} if study.english_ratio else {})


class LocalText(NamedTuple):
    """Text of a language as it lies there: its first documents, and the size of up to READ characters."""

    sample: list[str]
    documents: int
    characters: int


def read_text(study: Study, lang: str, dropped: Counter[str] | None = None) -> LocalText:
    """The local text of a language, its first READ characters. UserError where it is wrong."""
    sample: list[str] = []
    documents = characters = 0
    for text in corpus.read_local(RunPaths(study).data_root, lang, dropped):
        documents, characters = documents + 1, characters + len(text)
        if documents <= corpus.AUDIT_DOCUMENTS:
            sample.append(text)
        if characters >= READ:
            break
    return LocalText(sample, documents, characters)


def supply(study: Study, lang: str, needed: int) -> Supply:
    """The local text of a language. UserError where it is not there, or leaves less than `needed` tokens.

    Cleaned, shuffled and without its held-out text as the step `corpus` does it, but for items on the Hub.
    """
    path, tokenizer = corpus.text_file(RunPaths(study).data_root, lang), tokenizer_of(study.base_source)
    documents, whole = _cleaned(study, lang, path)
    left = corpus.shuffled(documents, study.seed)
    heldout = corpus.hold_out(left, study.heldout_bytes)
    if tokenizer is None:
        if whole and len(heldout) == len(documents):
            raise UserError(_too_little(study, lang, path, (len(documents), len(heldout)), 0, needed))
        return Supply(lang, path, None, needed, False)
    refuse_endless(base_folder(study.base_source) or "", documents[:BATCH])
    tokens, ended = _count(left, tokenizer, needed)
    if whole and ended and tokens * study.ct_epochs < needed:
        raise UserError(_too_little(study, lang, path, (len(documents), len(heldout)), tokens, needed))
    return Supply(lang, path, tokens, needed, whole and ended)


def _cleaned(study: Study, lang: str, path: Path) -> tuple[list[str], bool]:
    """Documents that cleaning leaves of the first COUNTED characters, and whether that is the whole file."""
    script = "Latin" if lang == ENGLISH else study.script
    rules = (script, study.script_min_share, study.dedup_threshold)
    check = language_checks(study.language_check, {lang: script}).get(lang)
    texts = corpus.read_local(path.parents[1], lang)
    documents = cleaning.clean(texts, *rules, Counter(), local_items(study), language=check)
    try:
        first, _ = corpus.first_documents(documents, COUNTED)
        return first, next(documents, None) is None
    except UserError as error:
        where = "" if str(error).startswith(str(path)) else f"{path}: "
        raise UserError(f"{where}{error}") from None


def local_items(study: Study) -> Items | None:
    """Evaluation items of local files, which cleaning drops; None where a file is wrong: told elsewhere."""
    files = sorted(RunPaths(study).data_root.glob("eval/*/*/*"))
    stamp = tuple((str(x), (s := x.stat()).st_size, s.st_mtime_ns) for x in files if x.is_file())
    try:
        return _items(study.model_dump_json(), stamp)
    except UserError:
        return None


@functools.lru_cache(maxsize=2)
def _items(study: str, stamp: tuple[tuple[str, int, int], ...]) -> Items:
    """study: as JSON; stamp: what tells whether the files have changed."""
    known = Study.model_validate_json(study)
    return items_of_study(known, RunPaths(known).data_root, hub=False)


def _too_little(
    study: Study, lang: str, path: Path, documents: tuple[int, int], tokens: int, needed: int
) -> str:
    """Why the text does not do; documents: all, and how many of them are held out."""
    every, heldout = documents
    remedy = f"{packing.more_passes(needed, tokens * study.ct_epochs, study.ct_epochs)}or lower ct_budgets"
    add = "Add text, "
    if every < FEW_DOCUMENTS:
        add = "A line of .txt, or a row, is a document: cut the text into more of them, add text, "
    return (
        f"{path}: {tokens:,} tokens are left for CT ({heldout:,} of {every:,} documents are kept out of "
        f"training, heldout_bytes {study.heldout_bytes:,}), and the last of ct_budgets {study.ct_budgets} "
        f"asks for {needed:,} in {lang!r} (english_ratio {study.english_ratio:g}). {add}{remedy}"
    )


def _count(documents: Iterable[str], tokenizer: Any, enough: int) -> tuple[int, bool]:
    """Tokens as CT packs them, until there are `enough`, and whether that was all."""
    documents, tokens = iter(documents), 0
    while tokens < enough:
        if not (batch := list(islice(documents, BATCH))):
            return tokens, True
        tokens += sum(map(len, packing.tokenize(tokenizer, batch)))
    return tokens, False


def example_tokens(study: Study, name: str) -> int | None:
    """Tokens of the English examples of a task of `sft_mix`; None where rows or tokenizer are not here."""
    if study.preset == "nano" or not data_is_known(study):
        return None
    try:
        tokenizer, root, n = tokenizer_of(study.base_source), RunPaths(study).data_root, study.sft_mix[name]
        if tokenizer is None or rows.sft_from_hub(spec(name), root):
            return None
        examples = rows.sft_examples(name, n, root, study.seed)
    except UserError:  # told by preflight
        return None
    texts = [example["prompt"] + example["completion"] for example in examples[:BATCH]]
    lengths = [min(len(ids), study.sft_max_len) for ids in packing.tokenize(tokenizer, texts)]
    return round(sum(lengths) * n / len(lengths))


def pruned_away(study: Study) -> int | None:
    """Parameters that pruning the base's vocabulary removes; None where base or data are not here yet."""
    folder = base_folder(study.base_source)
    if not (study.base_prune and folder and data_is_known(study) and (folder / "tokenizer.json").is_file()):
        return None
    root = RunPaths(study).data_root
    files = sorted(path for path in [*root.rglob("*"), *folder.glob("*")] if path.is_file())
    key = digest({str(path.resolve()): [(s := path.stat()).st_size, s.st_mtime_ns] for path in files})
    try:
        old, new = remembered("pruned.json", key, lambda: pruned_sizes(folder, data_texts(root)))
    except UserError:  # told by the step that prunes, or with the rows
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tables = 1 if config.get("tie_word_embeddings", True) else 2
    return (old - new) * config["hidden_size"] * tables


def base_folder(source: str) -> Path | None:
    """The folder of a base that is on this machine already, else None."""
    folder = (
        default_cache() / "base" / source.removeprefix("gguf:")
        if source.startswith("gguf:")
        else Path(source)
    )
    return folder if (folder / "config.json").is_file() else None


@functools.cache
def tokenizer_of(source: str) -> Any:
    """The tokenizer of a base at hand, None where it is not here. UserError for a folder without one."""
    if (folder := base_folder(source)) is None:
        return None
    from transformers import AutoTokenizer

    try:
        if not any(path.name in TOKENIZERS for path in folder.iterdir()):
            raise OSError(f"none of {', '.join(TOKENIZERS)}")  # transformers makes up an empty one
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a broken file makes transformers raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"base_source {source!r}: its folder has no tokenizer that can be read ({reason}). Save one "
            "beside the weights with tokenizer.save_pretrained"
        ) from None
