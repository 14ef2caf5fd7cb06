"""What a model does with some text: squared and mean gradients of its log-likelihood, inputs of its layers.

Of rows x, each a text or an answer after its prompt, and of log p(x), the sum over the tokens that count:

    fisher     F = mean over rows of (d log p(x) / d theta)^2     the diagonal of the empirical Fisher
    gradient   g = mean over rows of  d log p(x) / d theta

Of the inputs X of a linear layer, a row for each token of all rows x:

    gram       G = X' X / tokens                                  for each linear layer but the head

Sources: Fisher for merging, Matena and Raffel 2022, arXiv 2111.09832; |g * tau|, the change of the loss to
first order where a step tau is taken back, Molchanov et al. 2017, arXiv 1611.06440; Gram matrices for
RegMean, Jin et al. 2023, arXiv 2212.09849. Float sums differ between processors in their last digits, and
with them the order of entries whose scores are nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from lrnb.checkpoints.importance import GRAM, KINDS, write_scores
from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.reading import Checkpoint
from lrnb.data.corpus import file_texts
from lrnb.data.lines import json_lines
from lrnb.errors import UserError
from lrnb.study.environment import resolved_device
from lrnb.study.files import need_space
from lrnb.training.finetuning import Collator, counted_logits
from lrnb.training.pretraining import load_model

ROW = ("prompt", "completion")


def importance(
    kind: str,
    model: str | Path,
    rows: Sequence[str | Mapping[str, Any]],
    out: str | Path,
    *,
    max_len: int = 512,
    device: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write a model's scores of one kind into the folder `out`, in float32.

    kind: fisher or gradient, shaped like the model, or gram, see `lrnb/checkpoints/importance.py`. rows:
    texts, of which every token counts, or {"prompt", "completion"}, of which the completion does (for gram
    all), or {"input_ids", "position_ids"} of packed text; texts are cut to `max_len` tokens, longer pairs
    left out. Holds the model and what is written, both float32. Returns the facts (importance.json): kind,
    rows, left_out, tokens.
    UserError where no row is left or the model does not open.
    """
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    source = open_source(model)
    need_space(Path(out), 4 * sum(x.size for x in source.values()), "choose another folder")
    net, tokenizer = load_model(source.folder)
    net = net.to(resolved_device(device)).eval()
    _refuse_other_names(net, source)
    kept = [row for row in (_encoded(tokenizer, row, max_len) for row in rows) if row]
    if not kept:
        raise UserError(f"no row of text fits {max_len} tokens; give shorter ones, or more tokens (max_len)")
    tokens = sum(len(row["input_ids"]) if kind == GRAM else sum(row["completion_mask"][1:]) for row in kept)
    sums = _grams(net, kept, progress) if kind == GRAM else _sums(kind, net, kept, progress)
    facts = {"kind": kind, "rows": len(kept), "left_out": len(rows) - len(kept), "tokens": tokens}
    facts |= {"model": str(model), "max_len": max_len}
    of = tokens if kind == GRAM else len(kept)
    scores = {name: (total / of).cpu().numpy() for name, total in sums.items()}
    write_scores(out, scores, source, facts)
    return facts


def importance_rows(path: Path, limit: int) -> list[str | dict[str, str]]:
    """The first rows of a file: pairs of JSON Lines that have prompt and completion, else texts."""
    rows: Iterable[str | dict[str, str]] = _pairs(path) if _has_pairs(path) else file_texts(path)
    return list(islice(rows, limit))


def _has_pairs(path: Path) -> bool:
    if not path.is_file() or not path.name.endswith((".jsonl", ".jsonl.gz")):
        return False
    first = next(json_lines(path), (0, None))[1]
    return isinstance(first, dict) and set(ROW) <= set(first)


def _pairs(path: Path) -> Iterator[dict[str, str]]:
    for number, row in json_lines(path):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) and row[key] for key in ROW):
            raise UserError(f"{path}:{number}: expected a text for prompt and completion; mend or remove it")
        yield {key: row[key] for key in ROW}


def _refuse_other_names(net: Any, source: Checkpoint) -> None:
    """UserError where transformers calls the tensors otherwise than their files."""
    if odd := {name for name, _ in net.named_parameters()} ^ (set(source) - set(source.aliases)):
        raise UserError(
            f"{source.folder}: transformers calls {sorted(odd)[0]!r} otherwise ({len(odd)} such tensors). "
            "Open and save it once with AutoModelForCausalLM"
        )


def _encoded(tokenizer: Any, row: str | Mapping[str, Any], max_len: int) -> dict[str, Any] | None:
    """Ids, and 1 where a token counts; None for a pair that is too long or leaves nothing to predict."""
    if not isinstance(row, str) and "input_ids" in row:
        own = {key: [int(x) for x in row[key]][:max_len] for key in ("input_ids", "position_ids")}
        return own | {"completion_mask": [int(place > 0) for place in own["position_ids"]]}
    if isinstance(row, str):
        ids = tokenizer(row)["input_ids"][:max_len]
        mask = [1] * len(ids)
    else:
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        start = len(tokenizer(row["prompt"])["input_ids"])
        mask = [int(i >= start) for i in range(len(ids))]
    return {"input_ids": ids, "completion_mask": mask} if len(ids) <= max_len and any(mask[1:]) else None


def _grams(net: Any, rows: Sequence[dict[str, Any]], progress: Any) -> dict[str, torch.Tensor]:
    """X' X of the inputs of every linear layer but the head, under the name of its matrix, over all rows."""
    sums: dict[str, torch.Tensor] = {}
    head, hooks = net.get_output_embeddings(), []
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            hooks.append(module.register_forward_pre_hook(_adder(sums, f"{name}.weight")))
    with torch.no_grad():
        for row in rows:
            given = {key: row[key] for key in ("input_ids", "position_ids") if key in row}
            net(
                **{key: torch.tensor([ids], device=net.device) for key, ids in given.items()}, use_cache=False
            )
            if progress:
                progress(1)
    for hook in hooks:
        hook.remove()
    return sums


def _adder(sums: dict[str, torch.Tensor], name: str) -> Callable[[Any, Any], None]:
    """A hook that adds what comes into a layer."""

    def add(module: Any, inputs: Any) -> None:
        x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
        sums[name] = sums[name].addmm_(x.T, x) if name in sums else x.T @ x

    return add


def _sums(kind: str, net: Any, rows: Sequence[dict[str, Any]], progress: Any) -> dict[str, torch.Tensor]:
    """The gradients of every row's log-likelihood, squared for fisher, added up in the rows' order."""
    collate, parameters = Collator(0, 0.0), dict(net.named_parameters())
    sums = {name: torch.zeros_like(x) for name, x in parameters.items()}
    for row in rows:
        inputs = {key: x.to(net.device) for key, x in collate([row]).items()}
        logits, targets = counted_logits(net, inputs)
        (-functional.cross_entropy(logits.float(), targets, reduction="sum")).backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                sums[name] += parameter.grad**2 if kind == "fisher" else parameter.grad
                parameter.grad = None
        if progress:
            progress(1)
    return sums
