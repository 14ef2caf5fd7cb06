"""The `conflicts` command: an atlas of what a merge of ct and sft would keep, drop and win back."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.cli_merge import model_options, models_of, numbers_of, refuse

if TYPE_CHECKING:
    from lrnb.atlas import Atlas

EXAMPLES = """\
Counts are exact, for both trim scopes. With --out an atlas is written: tensors.parquet (one row a tensor),
joint.npz (histograms, from which every other density, weight and slack is computed without the models)
and atlas.json. In Python: lrnb.atlas.load(DIR), lrnb.whatif.what_if(atlas, density=0.3, slack=0.1).

example:
  lrnb conflicts --base B --model ct=C --model sft=S --density 0.5 --slack 0.1 --out atlas
"""


def conflicts_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    model_options(command)
    add: Any = command.add_argument
    many = {"action": "append", "metavar": "[NAME=]N"}
    add("--density", **many, help="share of the entries kept, (0, 1]; for both, or of NAME (default 0.5)")
    add("--weight", **many | {"metavar": "NAME=W"}, help="a parent's weight, at least 0 (default 1)")
    add("--slack", type=float, metavar="S", help="share of sft's lost entries won back, [0, 1] (default 0)")
    add("--slack-threshold", type=float, metavar="X", help="the same as a margin of magnitude")
    add("--zero-sign", choices=("majority", "positive"), help="sign of exact zero sums (default majority)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 (default) takes all cores")
    add("--out", type=Path, metavar="DIR", help="write the atlas here")
    add("--force", action="store_true", help="replace DIR even if it holds something else")
    add("--json", action="store_true", help="print the whole model's numbers as JSON")


def conflicts(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    models = models_of(given)
    if set(models) != {"ct", "sft"}:
        refuse(f"conflicts needs --model ct=DIR and --model sft=DIR, got {', '.join(models)}")
    if given.threads < 0:
        refuse(f"--threads {given.threads}: give a number of threads, or 0 for all cores")
    _check_out(given)
    options = _options(given, models)
    from lrnb import atlas, vectors

    start = time.perf_counter()
    parents = {name: models[name] for name in ("ct", "sft")}
    opened = vectors.TaskVectors(given.base, parents, method="conflicts", threads=given.threads)
    made = atlas.build(opened, **options, facts={"base": given.base, **parents})
    if given.out:
        atlas.save(made, given.out)
    if given.json:
        print(json.dumps(_whole(made), indent=1, allow_nan=False))
    else:
        _print(made, time.perf_counter() - start)
        if given.out:
            print(given.out)
    return 0


def _options(given: argparse.Namespace, models: dict[str, str]) -> dict[str, Any]:
    if given.slack is not None and given.slack_threshold is not None:
        refuse("conflicts takes one of --slack and --slack-threshold")
    options: dict[str, Any] = {"density": numbers_of("density", given.density or ["0.5"], models)}
    if isinstance(options["density"], dict) and set(options["density"]) != set(models):
        refuse("--density by name: give it for both, ct and sft")
    if given.weight:
        options["weights"] = numbers_of("weight", given.weight, models)
    for key in ("slack", "slack_threshold", "zero_sign"):
        if getattr(given, key) is not None:
            options[key] = getattr(given, key)
    return options


def _check_out(given: argparse.Namespace) -> None:
    """Refuse a folder that holds something else than an atlas, before anything is read."""
    out = given.out
    if out is None or given.force or not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / "atlas.json").is_file()):
        refuse(f"{out}: exists and is no atlas. Choose another --out, or add --force to replace it")


def _whole(made: Atlas) -> dict[str, Any]:
    from lrnb.atlas import SCOPES, SIZES, sizes
    from lrnb.conflicts import sums

    rows = {scope: dict(sums(made.exact(scope))) for scope in SCOPES}
    size = {name: None if x != x else x for name, x in sizes(made).iloc[-1][SIZES].items()}
    return {**made.facts, **size, **{f"trim_scope_{name}": row for name, row in rows.items()}}


def _print(made: Atlas, seconds: float) -> None:
    import pandas as pd

    from lrnb.atlas import SCOPES
    from lrnb.conflicts import COUNTS, sums
    from lrnb.tables import print_frame

    found = {scope: sums(made.exact(scope)) for scope in SCOPES}
    keys = ("density", "weights", "slack", "slack_threshold")
    setting = "; ".join(f"{key} {_plain(made.facts[key])}" for key in keys if made.facts[key] is not None)
    print(f"{int(found['model']['n']):,} entries, {seconds:.1f} s; {setting}")
    table = pd.DataFrame({"entries": [f"{name.replace('_', ' ')}, % of {OF[name][0]}" for name in COUNTS]})
    for scope, row in found.items():
        table[scope] = [f"{int(row[name]):,}" for name in COUNTS]
        table[f"{scope} %"] = [f"{row[name] / max(row[of], 1):.2%}" for name, (_, of) in OF.items()]
    print_frame(table, "by trim scope: one threshold for the model, or one for each tensor")
    _print_modules(made)


OF = {  # count: what it is given in percent of, in words and as a column
    "ct_kept": ("all", "n"),
    "sft_kept": ("all", "n"),
    "ct_discarded": ("its kept", "ct_kept"),
    "sft_discarded": ("its kept", "sft_kept"),
    "overlap": ("all", "n"),
    "conflicts": ("all", "n"),
    "reserved": ("sft discarded", "sft_discarded"),
}


def _plain(value: Any) -> str:
    """0.5, or ct 0.2, sft 0.6 where the parents differ."""
    if not isinstance(value, dict):
        return f"{value:g}"
    same = len(set(value.values())) == 1
    return f"{value['ct']:g}" if same else ", ".join(f"{name} {x:g}" for name, x in value.items())


def _print_modules(made: Atlas) -> None:
    import pandas as pd

    from lrnb.conflicts import sums
    from lrnb.tables import print_frame

    rows = []
    for module, part in made.exact("model").groupby("module", sort=False):
        row = sums(part)
        lost = {f"{p} discarded %": 100 * row[f"{p}_discarded_share"] for p in ("ct", "sft")}
        rows.append({"module": module, "entries": int(row["n"]), **lost})
    print_frame(pd.DataFrame(rows), "by module, trim scope model: % of the parent's kept entries")
