"""Widgets of the conflict atlas: SlackExplorer, ConflictMap, BudgetPlayer.

Each shows a figure of `lrnb.plots_atlas` or `lrnb.plots_budgets` for the state of its controls; in a
headless run it is that figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb import conflicts, plots_atlas, plots_budgets, saturation
from lrnb.atlas import SCOPES, Atlas
from lrnb.conflicts import MODEL
from lrnb.params import UserError, budget_name
from lrnb.whatif import WhatIf, what_if
from lrnb.widgets_base import Choice, Explorer, Slider, explore, headless
from lrnb.widgets_copy import copy_button

STEPS = 0.01  # of the sliders of density and slack
XI_STEP = 0.02  # of the threshold's slider, in powers of ten
STEP_W, HEAVIEST = 0.05, 2.0  # of the weights: the smallest and a step, and the largest


def start(atlas: Atlas) -> dict[str, Any]:
    """density, slack and trim scope to start from: those the atlas was made at.

    One density for both parents (CT's, where they differ); slack as a share, also where it was given as a
    threshold. The other widgets' what-ifs take the atlas's weights, see `_estimate`.
    """
    facts = atlas.facts
    scope, slack = facts.get("trim_scope", "model"), facts["slack"]
    if slack is None:
        total = conflicts.sums(atlas.exact(scope))
        slack = total["reserved"] / max(total["sft_discarded"], 1)
    return {"density": float(facts["density"]["ct"]), "slack": float(slack), "trim_scope": scope}


def _estimate(atlas: Atlas, **setting: Any) -> WhatIf:
    return what_if(atlas, weights=atlas.facts["weights"], **setting)


def _made_at(atlas: Atlas) -> str:
    """A sentence where one slider stands for two densities that differ."""
    own = atlas.facts["density"]
    differ = own["ct"] != own["sft"]
    return f" The atlas was made at density {own['ct']:g} of CT, {own['sft']:g} of SFT." if differ else ""


def places(atlas: Atlas) -> list[str]:
    """What can be looked at: the model, its layers, its tensors."""
    layers = [f"layer {n}" for n in sorted(set(atlas.tensors["layer"])) if n >= 0]
    return [MODEL, *layers, *atlas.tensors["tensor"]]


def slack_explorer(atlas: Atlas) -> Any:
    """SlackExplorer: density, slack as share and as threshold, weights, trim scope, and a part of the model.

    The histogram of SFT's defeats by margin with the reserved part shaded, the fate of both parents'
    entries, the numbers, what slack costs CT, and the `lrnb merge` command. Headless: the figure.
    """
    first = start(atlas)
    if headless():
        return plots_atlas.slack(_estimate(atlas, **first))
    return SlackExplorer(atlas, first)


class SlackExplorer(Explorer):
    """See `slack_explorer`. Moving the threshold sets the share it wins back, and the other way round."""

    def __init__(self, atlas: Atlas, first: Mapping[str, Any]) -> None:
        import ipywidgets as w

        self.atlas, self.by = atlas, "slack"
        self._follower: Any = None  # the slack that was not moved
        self._set = 0.0  # and what it was set to
        look = {"description": "slack as threshold ξ", "style": {"description_width": "auto"}}
        self.found, weights = _estimate(atlas, **first), atlas.facts["weights"]
        top = np.log10(max(HEAVIEST * float(atlas.tensors["ct_max"].max()), 1e-12))
        threshold = w.FloatLogSlider(
            10**top, min=top - 6, max=top, step=XI_STEP, readout_format=".2e", **look
        )
        controls = {
            "density": Slider("density", first["density"], 0.01, 1.0, STEPS),
            "slack": Slider("slack as share ρ", first["slack"], 0.0, 1.0, STEPS),
            "threshold": threshold,
            "ct": Slider("weight of CT", weights["ct"], STEP_W, HEAVIEST, STEP_W),
            "sft": Slider("weight of SFT", weights["sft"], STEP_W, HEAVIEST, STEP_W),
            "trim_scope": Choice("trim scope", first["trim_scope"], SCOPES),
            "where": Choice("look at", MODEL, places(atlas)),
        }
        hint = (
            "Try: at which slack does SFT win back half of its defeats, and what does it cost CT? "
            "Then lower the density, and look at one layer."
        )
        hint += _made_at(atlas)
        self.command = copy_button("")
        super().__init__("slack-explorer", hint, self.picture, controls, self.read, [self.command])
        self._link()

    def picture(self, where: str, **setting: Any) -> go.Figure:
        self.found = what_if(self.atlas, **self.options(**setting))
        return plots_atlas.slack(self.found, where)

    def options(
        self, density: float, slack: float, threshold: float, ct: float, sft: float, trim_scope: str
    ) -> dict[str, Any]:
        given = {"slack": slack} if self.by == "slack" else {"slack_threshold": threshold}
        return {"density": density, "weights": {"ct": ct, "sft": sft}, "trim_scope": trim_scope, **given}

    def read(self, where: str, **setting: Any) -> dict[str, str]:
        total = conflicts.sums(self.found.table.iloc[self.atlas.rows(where)])
        self.command.text = command(self.atlas, self.options(**setting))
        return numbers(total)

    def _changed(self, change: Any = None) -> None:
        owner = change.owner if change is not None else None
        if self._held or (owner is self._follower and self._is_echo(owner.value)):
            return
        if owner in (self.controls["slack"], self.controls["threshold"]):
            self.by = "slack" if owner is self.controls["slack"] else "threshold"
        super()._changed(change)
        self._link()

    def _is_echo(self, value: float) -> bool:
        """Whether the browser sends back what `_link` has set, rounded to the slider's step."""
        if self.by == "slack":
            return abs(np.log10(value / self._set)) <= 0.51 * XI_STEP
        return abs(value - self._set) <= 0.51 * STEPS

    def _link(self) -> None:
        """Set the slack that was not moved to what the moved one amounts to."""
        if self.by == "slack":
            self._follower, xi = self.controls["threshold"], self.found.xi[self.found.xi >= 0]
            low, high = 10**self._follower.min, 10**self._follower.max
            self._set = float(np.clip(np.median(xi), low, high)) if len(xi) else low
        else:
            self._follower, total = self.controls["slack"], conflicts.sums(self.found.table.iloc[:-1])
            self._set = total["reserved"] / max(total["sft_discarded"], 1)
        before, self._held = self._held, True
        try:
            self._follower.value = self._set
        finally:
            self._held = before


def numbers(total: Mapping[str, float]) -> dict[str, str]:
    """What a reader wants to know of one part of the model, in words."""
    of_sft, of_ct = max(total["sft_kept"], 1), max(total["ct_kept"], 1)
    back, ceded = total["reserved_mass"], total["ceded_mass"]
    return {
        "kept of SFT": f"{total['sft_kept']:,.0f}",
        "conflicts": f"{total['conflicts']:,.0f}",
        "SFT discarded": f"{total['sft_discarded']:,.0f} ({100 * total['sft_discarded'] / of_sft:.1f}%)",
        "CT discarded": f"{total['ct_discarded']:,.0f} ({100 * total['ct_discarded'] / of_ct:.1f}%)",
        "won back": f"{total['reserved']:,.0f} ({100 * total['reserved'] / of_sft:.1f}% of kept SFT)",
        "SFT regains": f"{back:.3g} of L1 mass ({100 * back / max(total['sft_kept_mass'], 1e-30):.2f}%)",
        "CT gives up": f"{ceded:.3g} of L1 mass ({100 * ceded / max(total['ct_kept_mass'], 1e-30):.2f}%)",
    }


def command(atlas: Atlas, options: Mapping[str, Any]) -> str:
    """The `lrnb merge` command that makes the merge of these options."""
    import shlex

    folders = {name: shlex.quote(str(atlas.facts.get(name, name.upper()))) for name in ("base", "ct", "sft")}
    slack = options.get("slack")
    given = f"--slack {slack:g}" if slack is not None else f"--slack-threshold {options['slack_threshold']:g}"
    sign = "--zero-sign positive " if atlas.facts["zero_sign"] == "positive" else ""
    weights = "".join(f" --weight {name}={x:g}" for name, x in options.get("weights", {}).items() if x != 1)
    return (
        f"lrnb merge ties-sv --base {folders['base']} "
        f"--model ct={folders['ct']} --model sft={folders['sft']} "
        f"--density {options['density']:g} {given}{weights} --trim-scope {options['trim_scope']} "
        f"{sign}--out merged"
    )


def conflict_map(atlas: Atlas) -> Any:
    """ConflictMap: a heatmap of layer x module; a click opens the sign-conflict histogram of that cell.

    Headless: the heatmap.
    """
    first = start(atlas)
    columns = [(what, column) for column, (what, _) in plots_atlas.COLUMNS.items()]
    controls = {
        "column": Choice("show", columns[0][1], columns),
        "trim_scope": Choice("trim scope", first["trim_scope"], SCOPES),
    }

    def draw(column: str, trim_scope: str) -> go.Figure:
        return plots_atlas.conflict_map(atlas, column, trim_scope)

    if headless():
        return draw(columns[0][1], first["trim_scope"])
    below = sign_explorer(atlas)
    hint = (
        "Try: which module loses most of SFT, and is it the same in every layer? Click a cell to look inside."
    )
    whole = Explorer("conflict-map", hint, draw, controls, below=[below.box])

    def open_cell(module: Any, layer: Any) -> None:
        below.controls["where"].value = plots_atlas.cell_name(str(layer), str(module))

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
        return plots_atlas.sign_histogram(last["found"], where)

    def read(where: str, **setting: Any) -> dict[str, str]:
        return numbers(conflicts.sums(last["found"].table.iloc[atlas.rows(where)]))

    hint = "Try: are SFT's large entries lost as often as its small ones?" + _made_at(atlas)
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
        tables = saturation.elections(atlases, **first)
        return plots_budgets.along_budgets(
            saturation.along(atlases, tables), budgets[-1], tables[budgets[-1]]
        )
    return BudgetPlayer(atlases, first)


class BudgetPlayer(Explorer):
    """See `budget_player`. The elections of a setting are kept while it plays."""

    def __init__(self, atlases: Mapping[int, Atlas], first: Mapping[str, Any]) -> None:
        import ipywidgets as w

        self.atlases, self.budgets = atlases, list(atlases)
        self._setting: dict[str, Any] = {}
        self._tables: dict[int, pd.DataFrame] = {}
        names = [(budget_name(budget), step) for step, budget in enumerate(self.budgets)]
        step = w.SelectionSlider(options=names, value=0, description="CT tokens")
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
            self._setting, self._tables = setting, saturation.elections(self.atlases, **setting)
        return self._tables

    def picture(self, step: int, **setting: Any) -> go.Figure:
        tables, budget = self.tables(setting), self.budgets[step]
        return plots_budgets.along_budgets(saturation.along(self.atlases, tables), budget, tables[budget])

    def read(self, step: int, **setting: Any) -> dict[str, str]:
        return numbers(conflicts.sums(self.tables(setting)[self.budgets[step]].iloc[:-1]))
