"""Training on two threads beside another program: what a waiting thread's spinning costs.

    python -m benchmarks.busy [--rounds 3] [--seconds 8]

Tokens a second of steps of a small Llama (preset nano's kind), alone and beside one process that never rests,
with the spins that GNU's OpenMP takes by itself (300,000) and with those that `import lrnb` sets. Every run
is a process of its own; the order changes from round to round. Writes results/<date>-busy.json and .md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.atlas import write
from benchmarks.merge import RESULTS, ROOT, now

SPINS = {"libgomp's own": {"GOMP_SPINCOUNT": "300000"}, "lrnb's": {}}
ONE = """
import sys, time
import lrnb, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_num_threads(2)
torch.manual_seed(0)
sizes = dict(vocab_size=1024, hidden_size=96, intermediate_size=256, num_hidden_layers=4)
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
optimizer, rows = torch.optim.AdamW(model.parameters()), torch.randint(0, 1024, (16, 128))
def step():
    model(input_ids=rows, labels=rows).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
for _ in range(3):
    step()
begun, steps = time.perf_counter(), 0
while time.perf_counter() - begun < float(sys.argv[1]):
    step()
    steps += 1
print(steps * rows.numel() / (time.perf_counter() - begun))
"""


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    """One process that never rests, or none."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def rate(given: dict[str, str], seconds: float) -> float:
    """Tokens a second of one process that is given these variables."""
    kept = {
        k: v for k, v in measure.variables(ROOT).items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    command = [sys.executable, "-c", ONE, str(seconds)]
    done = subprocess.run(command, env=kept | given, check=True, capture_output=True, text=True)
    return float(done.stdout)


def markdown(result: dict[str, Any]) -> str:
    """The table: medians of tokens a second, ratios of each round with their smallest and largest."""
    machine, rounds = result["machine"], result["rounds"]
    lines = [
        f"# Training on two threads, alone and beside another program, {result['started'][:10]}",
        "",
        f"{machine['processor']}, {machine['cores']} cores; {len(rounds)} rounds; load before: "
        f"{result['load']}. Tokens a second.",
        "",
        "| | libgomp's own spins | lrnb's | ratio |",
        "|---|---|---|---|",
    ]
    for place in ("alone", "beside one busy process"):
        own, ours = ([one[place][name] for one in rounds] for name in SPINS)
        told = measure.paired(own, ours)
        lines.append(f"| {place} | {median(own):,.0f} | {median(ours):,.0f} | {told} |")
    return "\n".join(lines) + "\n"


def bench(given: argparse.Namespace) -> None:
    """Run the rounds, write the result, print the table."""
    load, rounds = f"{os.getloadavg()[0]:.1f}", []
    for number in range(given.rounds):
        found: dict[str, dict[str, float]] = {}
        for place in ("alone", "beside one busy process"):
            with beside(place != "alone"):
                names = list(SPINS) if number % 2 else list(SPINS)[::-1]
                found[place] = {name: rate(SPINS[name], given.seconds) for name in names}
        rounds.append(found)
        print(found, file=sys.stderr, flush=True)
    result = {"schema": 1, "started": now(), "machine": measure.machine(), "versions": measure.versions()}
    result |= {"load": load, "commit": measure.commit(ROOT), "rounds": rounds}
    write(result, given.results, "busy", markdown(result))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return measure.status(bench, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
