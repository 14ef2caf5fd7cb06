"""Parameters of a whole study that takes a minute or two: real notebooks, little of everything."""

from __future__ import annotations

import json
from typing import Any

TASKS = ["world_topic", "world_sums"]
TINY: dict[str, Any] = {
    "base_width": 32,
    "base_layers": 2,
    "base_heads": 2,
    "base_tokens": 4096,
    "world_tokens": 9000,
    "ct_budgets": [2048, 4096],
    "heldout_bytes": 500,
    "sft_mix": dict.fromkeys(TASKS, 16),
    "tasks": TASKS,
    "tasks_en": ["world_topic"],
    "methods": ["average", "task_arithmetic", "ties", "ties_sv", "slerp"],
    "search": {"slerp": {"t": [0.5]}, "ties_sv": {"reserve_by": ["margin", "fisher"]}},
    "importance_rows": 8,
    "tuning_trials": 2,
    "alphas": [0.5],
    "lams": [1.0],
    "densities": [0.5],
    "slacks": [0.5],
    "dev_limit": 5,
    "test_limit": 12,
}


def options(values: dict[str, Any]) -> list[str]:
    """The values of a study as arguments of `lrnb run`."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
