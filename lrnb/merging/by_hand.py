"""TIES and TIES-SV on six numbers, step by step as one does it on paper, and checked against the package.

The numbers of `00_ties_by_hand` and of the worked examples in `02_merge`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lrnb.merging import formulas
from lrnb.merging.methods import ties, ties_sv

NAMES = [f"p{i}" for i in range(1, 7)]
BASE = np.array([0.0, 1.0, -1.0, 0.5, 2.0, -0.5])
TAU_CT = np.array([0.80, -0.25, 0.30, 0.20, -0.60, 0.10])
TAU_SFT = np.array([-0.45, 0.05, 0.40, -0.55, 0.50, 0.30])


@dataclass(frozen=True)
class Steps:
    """Every intermediate result; arrays are (6,), an entry each."""

    ct: np.ndarray  # trimmed task vectors
    sft: np.ndarray
    thresholds: tuple[float, float]  # of CT, of SFT
    sign: np.ndarray  # elected, after slack; 0 where nothing was kept
    ct_lost: np.ndarray  # bool: kept by trimming, not of the elected sign
    sft_lost: np.ndarray
    delta: np.ndarray  # |CT| − |weighted SFT| where SFT lost before slack, else NaN
    reserved: np.ndarray  # bool: lost, and won back by slack
    tau: np.ndarray  # merged task vector, times λ


def numbers() -> pd.DataFrame:
    """The six numbers as a table."""
    return pd.DataFrame([BASE, TAU_CT, TAU_SFT], ["base", "τ CT", "τ SFT"], NAMES)


def steps(kept: int = 5, weight: float = 1.0, lam: float = 1.0, slack: float = 0.0) -> Steps:
    """Trim to `kept` of six entries, elect with SFT's `weight` (CT's is 1), win back `slack`, merge.

    AssertionError if the package's merge of the same numbers is another one.
    """
    given, weights = (TAU_CT, TAU_SFT), (1.0, weight)
    t_ct, t_sft = (float(np.sort(np.abs(tau))[-kept]) for tau in given)
    ct, sft = taus = formulas.trim_all(given, (t_ct, t_sft))
    majority = np.sign(formulas.weighted_sum(taus, weights)).sum()
    gamma = formulas.elect(taus, weights, zero=1 if majority > 0 else -1)  # a sum of 0: as most others
    lost = formulas.discarded(sft, gamma) & formulas.conflict(taus)
    delta = np.where(lost, formulas.margin(taus, weights), np.nan)
    reserved = np.zeros(6, bool)
    reserved[np.argsort(delta)[: round(slack * lost.sum())]] = True  # NaN comes last
    gamma = np.where(reserved, -gamma, gamma)
    tau = formulas.mean(taus, weights, gamma)
    assert np.allclose(lam * tau, by_package(kept, weight, lam, slack), atol=1e-6)
    ct_lost, sft_lost = (formulas.discarded(x, gamma) for x in taus)
    return Steps(ct, sft, (t_ct, t_sft), np.sign(tau), ct_lost, sft_lost, delta, reserved, lam * tau)


def by_package(kept: int, weight: float, lam: float, slack: float) -> np.ndarray:
    """The merged task vector as `merge.ties` or, with slack, `ties_sv.ties_sv` makes it."""
    parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
    weights = {"ct": 1.0, "sft": weight}
    if slack:
        merged = ties_sv.ties_sv(BASE, **parents, density=kept / 6, weights=weights, lam=lam, slack=slack)
    else:
        merged = ties.ties(BASE, parents, density=kept / 6, weights=weights, lam=lam)
    return merged - BASE


def names(where: np.ndarray) -> str:
    """The entries marked, in words: "p1, p5", or "none"."""
    return ", ".join(name for name, marked in zip(NAMES, where, strict=True) if marked) or "none"
