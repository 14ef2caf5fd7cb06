# The study as a graph of notebooks. `lrnb run` writes params.yaml and starts this with --directory set to
# the run folder of one language; the steps themselves are listed in lrnb/plan.py.
#
#   base ──► corpus ──► ct ──► cts_<budget> ──► eval_parents ─┐
#     └────► sft ──► average, ties ──► ties_sv ──► eval_merged ┴► scores ─┐
#                    ct, sft, ties_sv ──► discarded ──────────────────────┴► failures ─► report
#                                             └─► signs, saturation

import os
import shlex
import sys
from pathlib import Path

from lrnb import params, plan

RUN = Path.cwd()
os.chdir(params.ROOT)  # paths in params.yaml count from the checkout
STUDY = plan.read_study(RUN / "params.yaml")
STEPS = plan.plan(STUDY)
URGENCY = plan.urgency(STEPS)
KEEP_CODE = ["--keep-code"] if config.get("keep_code") else []
os.chdir(RUN)


rule all:
    default_target: True
    input:
        [f".stamps/{name}" for name in STEPS],


for step in STEPS.values():

    rule:
        name:
            step.name
        input:
            [f".stamps/{need}" for need in step.needs],
        output:
            f".stamps/{step.name}",
        log:
            f"logs/{step.name}.log",
        threads: STUDY.threads
        priority: URGENCY[step.name]
        resources:
            gpu=int(step.gpu),
        params:
            command=shlex.join(
                [sys.executable, "-m", "lrnb", "exec", step.name, "--study", str(RUN / "params.yaml"), *KEEP_CODE]
            ),
        shell:
            "{params.command} > {log} 2>&1 && touch {output}"
