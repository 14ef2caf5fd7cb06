"""Log-likelihoods of all options of an item in one forward pass, as a harness model.

Plain scoring runs the context once for every option. Here an item is one sequence
[context, option 1, option 2, ...] under a tree mask: an option's tokens see the context and their
own branch only, and their positions continue the context's, so every branch computes what a
sequence of its own would, to rounding: in float32 as near to the exact value as plain scoring is
(docs/tasks.md has the numbers), in float64 to 1e-9. The vocabulary projection, the dearest part of a
small multilingual model, runs only where an option's token is predicted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM

from lrnb.errors import UserError
from lrnb.scoring.open_model import copy_state, open_model
from lrnb.study.environment import keep_freed_memory
from lrnb.training.bits_per_byte import log_likelihood

_log = logging.getLogger(__name__)
LOGITS_AT_ONCE = 64 * 2**20  # numbers in one block of logits: 256 MiB in float32
BUDGETS = {
    "cpu": 1024,
    "cuda": 32768,
    "mps": 1024,
}  # padded tokens a batch: measured on CPU, where less fits caches
MOST = 256  # tokens of a written answer, where a task does not say; the harness's own default


@dataclass
class Item:
    """One context with the options that share it. `slots` are the requests' places."""

    context: list[int]
    options: list[list[int]] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the sequence; an option's last token is predicted, never read."""
        return len(self.context) + sum(len(option) - 1 for option in self.options)


def _pack(batch: list[Item]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, branch (0 context, 1.. options, -1 padding) and position, each (items, tokens)."""
    width = max(item.length for item in batch)
    ids = np.zeros((len(batch), width), dtype=np.int64)
    branch, position = np.full_like(ids, -1), np.zeros_like(ids)
    for row, item in enumerate(batch):
        parts = [item.context, *(option[:-1] for option in item.options)]
        n = len(item.context)
        ids[row, : item.length] = [token for part in parts for token in part]
        branch[row, : item.length] = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        position[row, : item.length] = np.concatenate(
            [np.arange(len(p)) + (n if i else 0) for i, p in enumerate(parts)]
        )
    return ids, branch, position


def needed_rows(batch: list[Item], width: int) -> tuple[list[int], list[list[tuple[list[int], list[int]]]]]:
    """Which hidden rows are needed, and per item and option (places among them, tokens).

    The context's last row predicts the first token of every option; it is taken once.
    """
    rows: list[int] = []
    plan = []
    for index, item in enumerate(batch):
        first, start = len(rows), index * width + len(item.context)
        rows.extend(range(start - 1, index * width + item.length))
        place, options = first + 1, []
        for option in item.options:
            options.append(([first, *range(place, place + len(option) - 1)], option))
            place += len(option) - 1
        plan.append(options)
    return rows, plan


def masks(config: Any, branch: Any, position: Any) -> Any:
    """Boolean masks (items, 1, queries, keys): the tree's, and its part within a sliding window.

    Returns one mask, or for models that mix both kinds of layers a dict by layer type.
    """
    query, key = branch[:, None, :, None], branch[:, None, None, :]
    before = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device)
    tree = before.tril() & ((key == 0) | (key == query))
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or kinds == {"full_attention"}:
        return tree
    near = tree & (position[:, None, :, None] - position[:, None, None, :] < window)
    return {"full_attention": tree, "sliding_attention": near} if kinds else near


def _refuse_no_number(scores: Sequence[tuple[float, bool]]) -> None:
    if any(np.isnan(value) for value, _ in scores):
        raise UserError(
            "the model gives NaN in place of log-likelihoods: its weights or config.json are damaged, or its "
            "numbers do not fit this precision; try --precision fp32"
        )


class Scorer(TemplateLM):
    """A causal language model that scores items for the harness.

    model, tokenizer: of transformers; token_budget: padded tokens of a batch (default BUDGETS);
    batch: items of a batch at most; max_length: longest path context + option in tokens (default:
    the model's); longer contexts lose tokens at the left (the start token stays); progress(n) is called
    with finished items.
    Architectures for which the tree mask does not give the plain result are scored plainly.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        token_budget: int | None = None,
        batch: int | None = None,
        max_length: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch, self.progress = batch, progress
        self.token_budget = token_budget or BUDGETS[self.device.type]
        longest = getattr(model.config, "max_position_embeddings", 2048)
        self.max_length = longest if max_length is None else max_length
        self._encoded: dict[tuple[str, bool | None], list[int]] = {}
        self.tree = True
        self.tree = self._tree_agrees()

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, device: str = "auto", precision: str = "auto", **options: Any
    ) -> Scorer:
        """Opens a checkpoint folder. device: auto, cpu, cuda or mps; precision: auto, fp32 or bf16."""
        keep_freed_memory()
        return cls(*open_model(folder, device, precision), **options)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replaces the weights in place. state: name -> numpy array or tensor, as in a checkpoint.

        Raises UserError for missing, unknown and misshapen weights (see `open_model.copy_state`).
        """
        copy_state(self.model, state)

    # what the harness asks of a model

    @property
    def eot_token_id(self) -> int:
        """End-of-text token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by: the start token, else the end token."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids with the tokenizer's own start token, kept for the next model."""
        if (string, add_special_tokens) not in self._encoded:
            self._encode([string], add_special_tokens)
        return self._encoded[string, add_special_tokens]

    def _encode(self, strings: list[str], add_special_tokens: bool | None = None) -> None:
        """Cuts many texts at once: several times as fast as one by one."""
        bos, eot = self.tokenizer.bos_token, self.eot_token_id
        for special in (True, False):
            given = add_special_tokens
            part = [
                s for s in strings if (not (bos and s.startswith(bos)) if given is None else given) == special
            ]
            rows = self.tokenizer(part, add_special_tokens=special)["input_ids"] if part else []
            self._refuse_beyond(rows)
            for text, ids in zip(part, rows, strict=True):
                ended = ids and special and ids[-1] == eot != ids[0]  # would end the text before an option
                self._encoded[text, add_special_tokens] = ids[:-1] if ended else ids

    def _refuse_beyond(self, rows: list[list[int]]) -> None:
        """UserError for a token that the model has no embedding of: the tokenizer is another model's."""
        most = self.model.get_input_embeddings().weight.shape[0]
        if (largest := max(map(max, filter(None, rows)), default=0)) >= most:
            piece = self.tokenizer.convert_ids_to_tokens(largest)
            raise UserError(
                f"the tokenizer gives token {largest} ({piece!r}), and the model has {most:,} of them: "
                "put the tokenizer that it was trained with into its folder"
            )

    def option_tokens(self, context: str, option: str) -> int:
        """How many tokens an option has after its context."""
        return len(self._encode_pair(context, option)[1])

    def read(self, requests: Sequence[Any]) -> None:
        """Cuts the texts of requests that have options into tokens, all at once."""
        pairs = [request.args for request in requests if isinstance(request.args[1], str)]
        texts = dict.fromkeys(text for a, b in pairs if a for text in (a.rstrip(), a + b))
        self._encode([text for text in texts if text and (text, None) not in self._encoded])

    def loses(self, requests: Sequence[Any]) -> bool:
        """Whether an item, given by its requests, loses context. UserError where it cannot be asked."""
        if requests[0].request_type == "generate_until":
            context, options = requests[0].args
            return len(self.tok_encode(context)) > self._room(generation_options(options)[0])
        pairs = [self._encode_pair(*request.args) for request in requests]
        if blank := [r.args[1] for r, (_, option) in zip(requests, pairs, strict=True) if not option]:
            raise UserError(
                f"the option {blank[0]!r} has no token in the model's tokenizer; correct the row, or leave "
                "it out"
            )
        room = self._room(max(len(option) for _, option in pairs) - 1)
        return any(len(context) > room for context, _ in pairs)

    def _room(self, following: int) -> int:
        """Tokens that a context may have before so many others."""
        if (room := self.max_length - following) < 2:
            raise UserError(
                f"an answer of {following + 1} tokens does not fit {self.max_length}, the model's window; "
                "leave the row out, or score a model that sees more"
            )
        return room

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood (nats) and greediness of each (context, continuation)."""
        self.read(requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for batch in self._batches(self._items(requests)):
            for item, scores in zip(batch, self._score(batch), strict=True):
                _refuse_no_number(scores)
                for slot, score in zip(item.slots, scores, strict=True):
                    results[slot] = score
            if self.progress is not None:
                self.progress(len(batch))
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood (nats) of whole texts, as `bits_per_byte` counts them."""
        return [log_likelihood(self.model, self.tokenizer, request.args[0]) for request in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations cut before the first stop string, batched with prompts of like length."""
        answers = [""] * len(requests)
        groups: dict[tuple[int, tuple[str, ...]], list[Item]] = {}
        for slot, request in enumerate(requests):
            context, options = request.args
            new, stops = generation_options(options)
            ids = self._fit(self.tok_encode(context) or [self.prefix_token_id], new)
            groups.setdefault((new, stops), []).append(Item(ids, [[0] * new], [slot]))
        for (new, stops), items in groups.items():
            for batch in self._batches(items):
                rows = [item.context for item in batch]
                for item, text in zip(
                    batch, greedy(self.model, self.tokenizer, rows, stops, new), strict=True
                ):
                    answers[item.slots[0]] = text
                if self.progress is not None:
                    self.progress(len(batch))
        return answers

    # items and batches

    def _items(self, requests: list[tuple[Any, list[int], list[int]]]) -> list[Item]:
        items: list[Item] = []
        for slot, (_, context, option) in enumerate(requests):
            if not option:
                raise UserError(f"an option of request {slot} has no tokens; check the tokenizer")
            if not (self.tree and items and items[-1].context == context):
                items.append(Item(context))
            items[-1].options.append(option)
            items[-1].slots.append(slot)
        for item in items:
            item.context = self._fit(item.context, max(map(len, item.options)) - 1)
        return items

    def _fit(self, context: list[int], following: int) -> list[int]:
        room = self._room(following)
        if len(context) <= room:
            return context
        if context[0] == self.tokenizer.bos_token_id:
            return context[:1] + context[len(context) - room + 1 :]
        return context[-room:]

    def _batches(self, items: list[Item]) -> Iterator[list[Item]]:
        """Items of like length; padded, they stay within the budget (or are a single item)."""
        batch: list[Item] = []
        for item in sorted(items, key=lambda item: -item.length):
            full = len(batch) == self.batch or (
                batch and batch[0].length * (len(batch) + 1) > self.token_budget
            )
            if full:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    # one batch

    def _score(self, batch: list[Item]) -> list[list[tuple[float, bool]]]:
        ids, branch, position = (torch.from_numpy(a).to(self.device) for a in _pack(batch))
        with torch.inference_mode():
            hidden = self._hidden(ids, branch, position)  # (items, tokens, width)
            rows, plan = needed_rows(batch, hidden.shape[1])
            return self._sum(hidden.flatten(0, 1)[torch.tensor(rows).to(self.device)], plan)

    def _hidden(self, ids: Any, branch: Any, position: Any) -> Any:
        decoder = self.model.get_decoder()
        mask = masks(self.model.config, branch, position) if self.tree else None
        return decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False
        ).last_hidden_state

    def _sum(self, hidden: Any, plan: list[list[tuple[list[int], list[int]]]]) -> Any:
        """Adds up the log-probabilities of each option. hidden: (rows, width)."""
        rows = [row for item in plan for option in item for row in option[0]]
        tokens = [token for item in plan for option in item for token in option[1]]
        values, greedy = self._logprobs(hidden, np.array(rows), np.array(tokens))
        ends = np.cumsum([0] + [len(option[0]) for item in plan for option in item])
        sums = np.add.reduceat(values, ends[:-1])
        alls = np.logical_and.reduceat(greedy, ends[:-1])
        scores = iter(zip(sums.tolist(), alls.tolist(), strict=True))
        return [[next(scores) for _ in item] for item in plan]

    def _logprobs(self, hidden: Any, rows: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of token i at row i and whether it is the likeliest; blockwise."""
        values, greedy = np.empty(len(rows)), np.empty(len(rows), dtype=bool)
        block = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        for start in range(0, len(hidden), block):
            logits = self._logits(hidden[start : start + block])
            here = np.flatnonzero((rows >= start) & (rows < start + block))
            row = torch.from_numpy(rows[here] - start).to(self.device)
            token = torch.from_numpy(tokens[here]).to(self.device)
            found = logits[row, token] - logits.logsumexp(-1)[row]
            values[here] = found.cpu().double().numpy()
            greedy[here] = (logits.argmax(-1)[row] == token).cpu().numpy()
        return values, greedy

    def _logits(self, hidden: Any) -> Any:
        logits = self.model.get_output_embeddings()(hidden)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _tree_agrees(self) -> bool:
        """Scores one small tree both ways with the loaded model."""
        words = np.random.default_rng(0).integers(0, self.model.config.vocab_size, 16).tolist()
        context, options = words[:8], [words[8:12], words[12:16]]
        tree = [value for value, _ in self._score([Item(context, options)])[0]]
        plain = [self._plain(context, option) for option in options]
        bound = 1e-3 if torch.finfo(self.model.dtype).bits >= 32 else 0.5
        near = max(abs(a - b) for a, b in zip(tree, plain, strict=True)) <= bound
        if not near:
            _log.warning("%s: scored option by option", type(self.model).__name__)
        return near

    def _plain(self, context: list[int], option: list[int]) -> float:
        ids = torch.tensor([context + option], device=self.device)
        with torch.inference_mode():
            logs = self.model(ids).logits[0].float().log_softmax(-1)
        return sum(float(logs[len(context) - 1 + i, word]) for i, word in enumerate(option))


def generation_options(options: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """(most tokens, stop strings) of a task's generation_kwargs. UserError where it asks for sampling."""
    if options.get("do_sample") or options.get("num_beams", 1) > 1:
        raise UserError("answers are written greedily here; take do_sample and num_beams out of the task")
    stops = options.get("until") or []
    return int(options.get("max_gen_toks", MOST)), tuple(
        [stops] if isinstance(stops, str) else filter(None, stops)
    )


class _Stop:
    """A row is done when its text holds a stop string (checked on decoded text: tokens can merge over it)."""

    def __init__(self, tokenizer: Any, start: int, stops: Sequence[str]) -> None:
        self.tokenizer, self.start, self.stops = tokenizer, start, stops

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(ids[:, self.start :], skip_special_tokens=True)
        done = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=ids.device)


def greedy(model: Any, tokenizer: Any, rows: list[list[int]], stops: Sequence[str], most: int) -> list[str]:
    """The model's likeliest continuation of each row of tokens, up to `most` tokens or a stop string.

    Rows are padded at the left; texts are cut before the first stop string.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    width = max(map(len, rows))
    marks = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)  # any token pads what is masked
    pad = next(mark for mark in marks if mark is not None)
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    config = GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=pad,
                              eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    stopping: Any = StoppingCriteriaList([_Stop(tokenizer, width, stops)] if stops else [])  # type: ignore[list-item]
    before, model.generation_config = model.generation_config, config  # a checkpoint's own may sample
    try:
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=mask, stopping_criteria=stopping)
    finally:
        model.generation_config = before
    return [_cut(text, stops) for text in tokenizer.batch_decode(found[:, width:], skip_special_tokens=True)]


def _cut(text: str, stops: Sequence[str]) -> str:
    """The part before the first stop string."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
