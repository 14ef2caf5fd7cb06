# The study as a graph of notebooks. `lrnb run` writes params.yaml and starts this with --directory set to
# the run folder of one language; the steps themselves are listed in lrnb/pipeline/steps.py.
#
#   base ──► corpus ──► ct ──► cts_<budget> ──► eval_parents ─┐
#     └────► sft ──► average, ties ──► ties_sv ──► eval_merged ┴► scores ─┐
#                    ct, sft, ties_sv ──► discarded ──────────────────────┴► failures ─► report
#                                             └─► signs, saturation

import os
import shlex
import sys
from pathlib import Path

from lrnb.pipeline import notebooks, steps, warm
from lrnb.study import parameters

RUN = Path.cwd()
os.chdir(parameters.ROOT)  # paths in params.yaml count from the checkout
STUDY = steps.read_study(RUN / "params.yaml")
STEPS = steps.plan(STUDY)
URGENCY = steps.urgency(STEPS)
KEEP_CODE = ["--keep-code"] if config.get("keep_code") else []
NURSERY = warm.start_nursery(notebooks.QUIET | notebooks.environment(STUDY)) if config.get("warm") else None
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
        params:  # by a function, since Snakemake reads braces in a path as wildcards
            command=lambda wildcards, name=step.name: shlex.join(
                [sys.executable, "-m", "lrnb", "exec", name, "--study", str(RUN / "params.yaml"), *KEEP_CODE]
            ),
        shell:
            "{params.command} > {log} 2>&1 && touch {output}"
