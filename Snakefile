# The study as a graph of notebooks. `lrnb run` writes params.yaml and starts this with --directory set to
# the run folder of the first language, `others` to those of all others, and `due` to the steps that are not up
# to date (lrnb/pipeline/freshness.py decides that): these are the rules, and all of them are run. The steps are
# listed in lrnb/pipeline/steps.py. base and sft are there once, all else once a language.
#
#   base ──► corpus ──► ct ──► cts_<budget> ──► eval_parents ─┐
#     └────► sft ──► average, ties ──► ties_sv ──► eval_merged ┴► scores ─┐
#                    ct, sft, ties_sv ──► discarded ──────────────────────┴► failures ─► report
#                                             └─► signs, saturation

import os
import shlex
import sys
from pathlib import Path

from lrnb.pipeline import graph, notebooks, steps, warm
from lrnb.pipeline.retries import Retries
from lrnb.study import parameters

RUN = Path.cwd()
FOLDERS = [Path(), *map(Path, filter(None, str(config.get("others", "")).split(",")))]
os.chdir(parameters.ROOT)  # paths in params.yaml count from the checkout
STUDIES = [steps.read_study(RUN / folder / "params.yaml") for folder in FOLDERS]
GRAPH = graph.graph(STUDIES)
URGENCY = graph.priorities(GRAPH)
NODES = {name: GRAPH[name] for name in str(config["due"]).split(",")}
KEEP_CODE = ["--keep-code"] if config.get("keep_code") else []
ENVIRONMENT = notebooks.QUIET | notebooks.environment(STUDIES[0])
NURSERY = warm.start_nursery(ENVIRONMENT) if config.get("warm") else None
STATUS = {name: notebooks.Status(node.study, node.step.name) for name, node in NODES.items()}
os.chdir(RUN)


def stamp(name):  # says that the step ended in this run, nothing more
    return str(FOLDERS[NODES[name].place] / ".stamps" / NODES[name].step.name)


def command(node):
    params = RUN / FOLDERS[node.place] / "params.yaml"
    return shlex.join(
        [sys.executable, "-m", "lrnb", "exec", node.step.name, "--study", str(params), *KEEP_CODE]
    )


rule all:
    default_target: True
    input:
        [stamp(name) for name in NODES],


for node in NODES.values():

    rule:
        name:
            node.name
        input:
            [stamp(need) for need in node.needs if need in NODES],
        output:
            stamp(node.name),
        log:
            str(FOLDERS[node.place] / "logs" / f"{node.step.name}.log"),
        threads: notebooks.threads_of(node.step, node.study)
        priority: URGENCY[node.name]
        resources:
            **notebooks.resources_of(node.step, node.study),
        params:  # by a function, since Snakemake reads braces in a path as wildcards
            command=lambda wildcards, node=node: command(node),
        shell:
            "{params.command} > {log} 2>&1 && touch {output}"

ASKED = workflow.resource_settings.overwrite_resources  # a profile's set-resources: gpu, cpu, names of steps
for node in filter(lambda node: workflow.is_rule(node.name), NODES.values()):  # a job has its own rule only
    made = workflow.get_rule(node.name)
    for name in node.classes:
        made.resources.update(ASKED.get(name, {}))
    made.restart_times = Retries(lambda: workflow.execution_settings.retries, STATUS[node.name].is_final)
