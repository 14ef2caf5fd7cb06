"""Widgets of the conflict atlas: SlackExplorer, ConflictMap, BudgetPlayer.

Each shows a figure of `lrnb.figures` for the state of its controls; in a headless run it is that figure.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.conflicts import along_budgets, counts
from lrnb.conflicts.atlas import SCOPES, Atlas
from lrnb.conflicts.counts import MODEL
from lrnb.conflicts.what_ifs import WhatIf, what_if
from lrnb.errors import UserError
from lrnb.figures.conflicts import (
    cell_name,
    conflict_heatmap,
    map_columns,
    shown,
    sign_histogram,
    slack_histogram,
)
from lrnb.figures.merging import shares_along_budgets
from lrnb.study.parameters import budget_name
from lrnb.widgets.copying import copied, copy_button
from lrnb.widgets.explorer import Choice, Explorer, Slider, explore, headless

STEPS = 0.01  # of the sliders of density and slack
XI_STEP = 0.02  # of the threshold's slider, in powers of ten
LATE = 3.0  # seconds within which a browser sends back what a slider was set to
STEP_W, HEAVIEST = 0.05, 2.0  # of the weights: the smallest and a step, and the largest


def start(atlas: Atlas) -> dict[str, Any]:
    """density, slack and trim scope to start from: those the atlas was made at.

    One density for all parents (the first one's, where they differ); slack as a share, also where it was
    given as a threshold. The other widgets' what-ifs take the atlas's weights, see `_estimate`.
    """
    facts = atlas.facts
    scope, slack = facts.get("trim_scope", "model"), facts["slack"]
    if slack is None:
        slack = _won_share(atlas, counts.sums(atlas.exact(scope), atlas.protect))
    density = facts["density"][atlas.parents[0]]
    return {"density": float(density), "slack": float(slack), "trim_scope": scope}


def _won_share(atlas: Atlas, total: Mapping[str, float]) -> float:
    return total["reserved"] / max(total[f"{atlas.protect}_discarded"], 1)


def _estimate(atlas: Atlas, **setting: Any) -> WhatIf:
    return what_if(atlas, weights=atlas.facts["weights"], **setting)


def _made_at(atlas: Atlas) -> str:
    """A sentence where one slider stands for several densities that differ."""
    own = atlas.facts["density"]
    if len(set(own.values())) == 1:
        return ""
    words = ", ".join(f"{x:g} of {shown(parent)}" for parent, x in own.items())
    return f" The atlas was made at density {words}."


def places(atlas: Atlas) -> list[str]:
    """What can be looked at: the model, its layers, its tensors."""
    layers = [f"layer {n}" for n in sorted(set(atlas.tensors["layer"])) if n >= 0]
    return [MODEL, *layers, *atlas.tensors["tensor"]]


def slack_explorer(atlas: Atlas) -> Any:
    """SlackExplorer: density, slack as share and as threshold, weights, trim scope, and a part of the model.

    The histogram of the protected parent's defeats by margin with the reserved part shaded, the fate of all
    parents' entries, the numbers, what slack costs the others, and the `lrnb merge` command. Headless: the
    figure.
    """
    first = start(atlas)
    if headless():
        return slack_histogram(_estimate(atlas, **first))
    return SlackExplorer(atlas, first)


class SlackExplorer(Explorer):
    """See `slack_explorer`. Moving the threshold sets the share it wins back, and the other way round."""

    def __init__(self, atlas: Atlas, first: Mapping[str, Any]) -> None:
        import ipywidgets as w

        self.atlas, self.by = atlas, "slack"
        self._follower: Any = None  # the slack that was not moved
        self._set: list[tuple[float, float]] = []  # and what it was set to, and when; the last one last
        name = "slack as threshold ξ"
        look = {"description": name, "tooltip": name, "style": {"description_width": "auto"}}
        self.found, weights = _estimate(atlas, **first), atlas.facts["weights"]
        others = [f"{parent}_max" for parent in atlas.parents if parent != atlas.protect]
        top = np.log10(max(HEAVIEST * float(atlas.tensors[others].max().sum()), 1e-12))
        threshold = w.FloatLogSlider(
            10**top, min=top - 6, max=top, step=XI_STEP, readout_format=".2e", **look
        )
        controls = {
            "density": Slider("density", first["density"], 0.01, 1.0, STEPS),
            "slack": Slider("slack as share ρ", first["slack"], 0.0, 1.0, STEPS),
            "threshold": threshold,
            **{
                f"weight_{parent}": Slider(
                    f"weight of {shown(parent)}", weights[parent], STEP_W, HEAVIEST, STEP_W
                )
                for parent in atlas.parents
            },
            "trim_scope": Choice("trim scope", first["trim_scope"], SCOPES),
            "where": Choice("look at", MODEL, places(atlas)),
        }
        hint = (
            f"Try: at which slack does {shown(atlas.protect)} win back half of its defeats, and "
            "what does it cost? Then lower the density, and look at one layer."
        )
        hint += _made_at(atlas)
        self.command = copy_button("")
        super().__init__("slack-explorer", hint, self.picture, controls, self.read, [self.command])
        self._link()

    def picture(self, where: str, **setting: Any) -> go.Figure:
        self.found = what_if(self.atlas, **self.options(**setting))
        return slack_histogram(self.found, where)

    def options(
        self, density: float, slack: float, threshold: float, trim_scope: str, **weights: float
    ) -> dict[str, Any]:
        given = {"slack": slack} if self.by == "slack" else {"slack_threshold": threshold}
        named = {parent: weights[f"weight_{parent}"] for parent in self.atlas.parents}
        return {"density": density, "weights": named, "trim_scope": trim_scope, **given}

    def read(self, where: str, **setting: Any) -> dict[str, str]:
        self.command.value = copied(command(self.atlas, self.options(**setting)))
        return account_in_words(self.found.sums(where), self.found.protect)

    def _changed(self, change: Any = None) -> None:
        owner = change.owner if change is not None else None
        if self._held or (owner is self._follower and self._is_echo(owner.value)):
            return
        if owner in (self.controls["slack"], self.controls["threshold"]):
            self.by = "slack" if owner is self.controls["slack"] else "threshold"
        super()._changed(change)
        self._link()

    def _is_echo(self, value: float) -> bool:
        """Whether the browser sends back what `_link` has set, rounded to the slider's step, maybe late."""
        late = time.monotonic() - LATE
        recent = [one for when, one in self._set[:-1] if when > late] + [self._set[-1][1]]
        if self.by == "slack":
            return any(abs(np.log10(value / one)) <= 0.51 * XI_STEP for one in recent)
        return any(abs(value - one) <= 0.51 * STEPS for one in recent)

    def _link(self) -> None:
        """Set the slack that was not moved to what the moved one amounts to."""
        follower = self.controls["threshold" if self.by == "slack" else "slack"]
        value = self._threshold() if self.by == "slack" else _won_share(self.atlas, self.found.sums())
        known = self._set[-20:] if follower is self._follower else []
        self._follower, self._set = follower, [*known, (time.monotonic(), value)]
        before, self._held = self._held, True
        try:
            self._follower.value = value
        finally:
            self._held = before

    def _threshold(self) -> float:
        """The slack as a threshold, where the slider can show it."""
        slider, xi = self.controls["threshold"], self.found.xi[self.found.xi >= 0]
        low, high = 10**slider.min, 10**slider.max
        return float(np.clip(np.median(xi), low, high)) if len(xi) else low


def account_in_words(total: Mapping[str, float], own: str = "sft") -> dict[str, str]:
    """What a reader wants to know of one part of the model, in words; own: the parent that slack is for."""
    others = [parent for parent in counts.parents_of(total) if parent != own]
    back, ceded = total["reserved_mass"], total["ceded_mass"]
    of_own, of_others = total[f"{own}_kept_mass"], sum(total[f"{parent}_kept_mass"] for parent in others)
    name, rest = shown(own), shown(others[0]) if len(others) == 1 else "others"
    lost = {
        f"{shown(parent)} discarded": _part(total, f"{parent}_discarded", f"{parent}_kept")
        for parent in [own, *others]
    }
    return {
        f"kept of {name}": f"{total[f'{own}_kept']:,.0f}",
        "conflicts": f"{total['conflicts']:,.0f}",
        **lost,
        "won back": _part(total, "reserved", f"{own}_kept", f" of kept {name}"),
        f"{name} regains": f"{back:.3g} of L1 mass ({100 * back / max(of_own, 1e-30):.2f}%)",
        f"{rest} {'give' if rest == 'others' else 'gives'} up": f"{ceded:.3g} of L1 mass "
        f"({100 * ceded / max(of_others, 1e-30):.2f}%)",
    }


def _part(total: Mapping[str, float], part: str, of: str, words: str = "") -> str:
    return f"{total[part]:,.0f} ({100 * total[part] / max(total[of], 1):.1f}%{words})"


def command(atlas: Atlas, options: Mapping[str, Any]) -> str:
    """The `lrnb merge` command that makes the merge of these options."""
    folders = {name: shlex.quote(str(atlas.facts.get(name, name.upper()))) for name in atlas.parents}
    base = shlex.quote(str(atlas.facts.get("base", "BASE")))
    models = " ".join(f"--model {shlex.quote(name)}={folder}" for name, folder in folders.items())
    slack = options.get("slack")
    given = f"--slack {slack:g}" if slack is not None else f"--slack-threshold {options['slack_threshold']:g}"
    sign = "--zero-sign positive " if atlas.facts["zero_sign"] == "positive" else ""
    sign += f"--protect {shlex.quote(atlas.protect)} " if atlas.protect != "sft" else ""
    weights = "".join(f" --weight {name}={x:g}" for name, x in options.get("weights", {}).items() if x != 1)
    return (
        f"lrnb merge ties-sv --base {base} {models} --density {options['density']:g} {given}{weights} "
        f"--trim-scope {options['trim_scope']} {sign}--out merged"
    )


def conflict_map(atlas: Atlas) -> Any:
    """ConflictMap: a heatmap of layer x module; a click opens the sign-conflict histogram of that cell.

    Headless: the heatmap.
    """
    first = start(atlas)
    columns = [(what, column) for column, (what, _) in map_columns(atlas).items()]
    controls = {
        "column": Choice("show", columns[0][1], columns),
        "trim_scope": Choice("trim scope", first["trim_scope"], SCOPES),
    }

    def draw(column: str, trim_scope: str) -> go.Figure:
        return conflict_heatmap(atlas, column, trim_scope)

    if headless():
        return draw(columns[0][1], first["trim_scope"])
    below = sign_explorer(atlas)
    hint = (
        f"Try: which module loses most of {shown(atlas.protect)}, and is it the same in every "
        "layer? Click a cell to look inside."
    )
    whole = Explorer("conflict-map", hint, draw, controls, below=[below.box])

    def open_cell(module: Any, layer: Any) -> None:
        below.controls["where"].value = cell_name(str(layer), str(module))

    whole.on_click(open_cell)
    return whole


def sign_explorer(atlas: Atlas) -> Any:
    """The sign-conflict histogram of a part of the model at any density and slack. Headless: the figure."""
    first = start(atlas)
    cells = dict.fromkeys([MODEL, *atlas.cells, *atlas.tensors["tensor"]])
    controls = {
        "where": Choice("look at", MODEL, list(cells)),
        "density": Slider("density", first["density"], 0.01, 1.0, STEPS),
        "slack": Slider("slack ρ", first["slack"], 0.0, 1.0, STEPS),
        "trim_scope": Choice("trim scope", first["trim_scope"], SCOPES),
    }
    last: dict[str, WhatIf] = {}

    def draw(where: str, **setting: Any) -> go.Figure:
        last["found"] = _estimate(atlas, **setting)
        return sign_histogram(last["found"], where)

    def read(where: str, **setting: Any) -> dict[str, str]:
        return account_in_words(last["found"].sums(where), last["found"].protect)

    own = shown(atlas.protect)
    hint = f"Try: are {own}'s large entries lost as often as its small ones?" + _made_at(atlas)
    return explore("sign-explorer", hint, draw, controls, numbers=read)


def budget_player(atlases: Mapping[int, Atlas]) -> Any:
    """BudgetPlayer: task vectors and losses along CT tokens, with a play button.

    Headless: the figure of the last budget.
    """
    if not atlases:
        raise UserError("budget_player: give the atlas of at least one budget")
    budgets = list(atlases)
    first = start(atlases[budgets[-1]])
    if headless():
        tables = along_budgets.elections(atlases, **first)
        return shares_along_budgets(along_budgets.along(atlases, tables), budgets[-1], tables[budgets[-1]])
    return BudgetPlayer(atlases, first)


class BudgetPlayer(Explorer):
    """See `budget_player`. The elections of a setting are kept while it plays."""

    def __init__(self, atlases: Mapping[int, Atlas], first: Mapping[str, Any]) -> None:
        import ipywidgets as w

        self.atlases, self.budgets = atlases, list(atlases)
        self._setting: dict[str, Any] = {}
        self._tables: dict[int, pd.DataFrame] = {}
        names = [(budget_name(budget), step) for step, budget in enumerate(self.budgets)]
        step = w.SelectionSlider(options=names, value=0, description="CT tokens", tooltip="CT tokens")
        play = w.Play(min=0, max=len(self.budgets) - 1, interval=1200, description="play")
        w.jslink((play, "value"), (step, "index"))
        controls = {
            "step": step,
            "density": Slider("density", first["density"], 0.01, 1.0, STEPS),
            "slack": Slider("slack ρ", first["slack"], 0.0, 1.0, STEPS),
            "trim_scope": Choice("trim scope", first["trim_scope"], SCOPES),
        }
        hint = "Try: press play. Does the discarded share grow as fast as CT's task vector?"
        play.add_class("lrnb-play")
        super().__init__("budget-player", hint, self.picture, controls, self.read, [play])

    def tables(self, setting: dict[str, Any]) -> dict[int, pd.DataFrame]:
        """The election of every budget at `setting`."""
        if self._setting != setting:
            self._setting, self._tables = setting, along_budgets.elections(self.atlases, **setting)
        return self._tables

    def picture(self, step: int, **setting: Any) -> go.Figure:
        tables, budget = self.tables(setting), self.budgets[step]
        return shares_along_budgets(along_budgets.along(self.atlases, tables), budget, tables[budget])

    def read(self, step: int, **setting: Any) -> dict[str, str]:
        return account_in_words(counts.sums(self.tables(setting)[self.budgets[step]].iloc[:-1]))
