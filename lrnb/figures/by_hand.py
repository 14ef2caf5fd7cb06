"""Figures of TIES by hand: six entries of CT and SFT, and what each step makes of them.

Numbers come from `lrnb.merging.by_hand`. Left hollow: trimmed away. Hatched: discarded at the election.
Framed in the colour of slack: won back.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from lrnb.figures.style import FAINT, INK, OUTCOMES, PAPER, blank, colour, finish
from lrnb.merging import by_hand

WEIGHTS, ENTRY = "weight of the model", "entry of τ"
PARENTS = (("ct", "CT", by_hand.TAU_CT), ("sft", "SFT", by_hand.TAU_SFT))
NONE = np.zeros(6, bool)


def trimmed_by_hand(kept: int = 5, reveal: bool = True) -> go.Figure:
    """The two task vectors, each parent's threshold as dashed lines; what is trimmed away is hollow."""
    steps = by_hand.steps(kept)
    fig = blank()
    gone = (steps.ct == 0, steps.sft == 0) if reveal else (NONE, NONE)
    _parents(fig, gone, (NONE, NONE))
    if reveal:
        for (parent, _, _), t in zip(PARENTS, steps.thresholds, strict=True):
            for y in (-t, t):
                fig.add_hline(y=y, line={"color": colour(parent), "dash": "dash", "width": 2})
    away = "is predicted first" if not reveal else f"keeps {kept} of n = 6 entries of each parent"
    _legend(fig, "trimmed away")
    return _finish(fig, f"Trim {away}")


def elected_by_hand(kept: int = 5, weight: float = 1.0, reveal: bool = True) -> go.Figure:
    """The trimmed entries, the elected sign above each place; hatched entries have the other sign."""
    steps = by_hand.steps(kept, weight)
    fig = blank()
    lost = (steps.ct_lost, steps.sft_lost) if reveal else (NONE, NONE)
    _parents(fig, (steps.ct == 0, steps.sft == 0), lost, scale=weight)
    _legend(fig, "trimmed away", "discarded")
    _signs(fig, steps.sign, reveal)
    count = f"SFT loses {steps.sft_lost.sum()} of its {kept} entries" if reveal else "which does SFT lose?"
    return _finish(fig, f"Elect: {count} (n = 6 weights)", f"weight × {ENTRY}" if weight != 1 else ENTRY)


def merged_by_hand(kept: int = 5, weight: float = 1.0, lam: float = 1.0, reveal: bool = True) -> go.Figure:
    """The winners of every election and their mean, times λ."""
    steps = by_hand.steps(kept, weight, lam)
    fig = blank()
    _parents(fig, (steps.ct == 0, steps.sft == 0), (steps.ct_lost, steps.sft_lost))
    _legend(fig, "trimmed away", "discarded")
    _result(fig, steps.tau if reveal else np.zeros(6))
    _signs(fig, steps.sign, True)
    title = f"Merge: λ = {lam:g} times the mean of the winners" if reveal else "Merge: predict the means"
    return _finish(fig, f"{title} (n = 6 weights)")


def slackened_by_hand(slack: float = 0.5, kept: int = 5, reveal: bool = True) -> go.Figure:
    """Left: SFT's defeats, narrowest first, ξ where slack stops. Right: what is merged then."""
    steps = by_hand.steps(kept, slack=slack if reveal else 0.0)
    fig = blank(rows=1, cols=2, column_widths=[0.3, 0.7], horizontal_spacing=0.12)
    order = np.argsort(steps.delta)[: int(np.isfinite(steps.delta).sum())]
    back = steps.reserved[order]
    fig.add_bar(
        x=[by_hand.NAMES[i] for i in order],
        y=steps.delta[order],
        marker={"color": [OUTCOMES["reserved" if b else "discarded"] for b in back]},
        text=[f"{x:.2f}" for x in steps.delta[order]],
        showlegend=False,
        row=1,
        col=1,
    )
    lost = (steps.ct_lost, steps.sft_lost)
    _parents(fig, (steps.ct == 0, steps.sft == 0), lost, steps.reserved, row=1, col=2)
    _legend(fig, "trimmed away", "discarded", "won back")
    _result(fig, steps.tau, row=1, col=2)
    fig.add_hline(y=xi(steps), line={"color": INK, "dash": "dash"}, row=1, col=1)
    won = f"Slack ρ = {slack:g} wins {back.sum()} of SFT's {len(order)} defeats back"
    _finish(fig, f"{won if reveal else 'Slack: which ρ wins p1 back?'} (n = 6 weights)")
    fig.update_xaxes(title_text="SFT's defeats, narrowest first", row=1, col=1)
    fig.update_yaxes(title_text="δ = |τ CT| − |τ SFT|", range=[0, 0.5], row=1, col=1)
    return fig.update_yaxes(title_text=ENTRY, range=[-1, 1.1], row=1, col=2)


def xi(steps: by_hand.Steps) -> float:
    """ξ, the widest margin that slack won back; 0 for none."""
    return float(steps.delta[steps.reserved].max()) if steps.reserved.any() else 0.0


def _parents(
    fig: go.Figure,
    gone: tuple[np.ndarray, np.ndarray],
    lost: tuple[np.ndarray, np.ndarray],
    back: np.ndarray = NONE,
    scale: float = 1.0,
    **where: int,
) -> None:
    """One bar a parent and entry: full, hollow (trimmed), hatched (discarded), framed (won back)."""
    for (parent, name, tau), off, out in zip(PARENTS, gone, lost, strict=True):
        own = parent == "sft"
        ink, framed = colour(parent), back & own
        edges = np.where(framed, OUTCOMES["reserved"], np.where(off, FAINT, ink)).tolist()
        fig.add_bar(
            x=by_hand.NAMES,
            y=tau * (scale if own else 1.0),
            offsetgroup=parent,
            showlegend=False,
            marker={
                "color": [PAPER if o else ink for o in off],
                "pattern": {"shape": ["/" if o else "" for o in out], "fillmode": "replace"},
                "line": {"color": edges, "width": [4 if f else 1 for f in framed]},
            },
            hovertemplate="%{x}: %{y:.2f}<extra>" + name + "</extra>",
            **where,
        )


def _legend(fig: go.Figure, *words: str) -> None:
    """What full, hollow, hatched and framed bars mean: bars of no height, in nobody's way."""
    line = {"color": FAINT, "width": 1}
    looks: dict[str, dict] = {name: {"color": colour(parent)} for parent, name, _ in PARENTS}
    looks |= {
        "trimmed away": {"color": PAPER, "line": line},
        "discarded": {"color": FAINT, "line": line, "pattern": {"shape": "/", "fillmode": "replace"}},
        "won back": {"color": PAPER, "line": {"color": OUTCOMES["reserved"], "width": 3}},
    }
    for word in ("CT", "SFT", *words):
        fig.add_bar(x=by_hand.NAMES[:1], y=[None], name=word, marker=looks[word], offsetgroup="ct")


def _result(fig: go.Figure, tau: np.ndarray, **where: int) -> None:
    texts = [f"{x:.2f}" if x else "" for x in tau]
    fig.add_bar(
        x=by_hand.NAMES,
        y=tau,
        name="merged τ",
        offsetgroup="merged",
        marker={"color": INK},
        text=texts,
        textposition="outside",
        constraintext="none",
        textangle=0,
        textfont={"size": 11},
        cliponaxis=False,
        **where,
    )


def _signs(fig: go.Figure, sign: np.ndarray, reveal: bool) -> None:
    for name, s in zip(by_hand.NAMES, sign, strict=True):
        text = {1: "+", -1: "−"}.get(int(s), "0") if reveal else "?"
        fig.add_annotation(x=name, y=1.36, text=f"<b>{text}</b>", showarrow=False, font={"size": 18})


def _finish(fig: go.Figure, title: str, y: str = ENTRY) -> go.Figure:
    fig.update_layout(barmode="group", bargap=0.25, bargroupgap=0.08)
    finish(fig, title, WEIGHTS, y, 390)
    return fig.update_yaxes(range=[-1.3, 1.5], zeroline=True, zerolinecolor=FAINT)
