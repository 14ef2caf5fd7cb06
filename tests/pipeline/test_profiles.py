"""Snakemake's profiles: what they give wins over what is usual, and what is typed over both."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.mini_checkout import write_checkout

from lrnb.errors import UserError
from lrnb.pipeline import graph, profiles, runner, slurm
from lrnb.pipeline import steps as plan
from lrnb.pipeline.notebooks import resources_of
from lrnb.pipeline.profiles import Profile
from lrnb.study.parameters import ROOT, load_study, read_yaml

STUDY = load_study(ROOT / "params" / "qaa.yaml", "nano", {"ct_budgets": [1024], "threads": 2})


def given(profile: Profile, jobs: int | None = None, gpus: int | None = None) -> dict[str, str]:
    """Snakemake's options, the last value of each."""
    command = runner.snakemake_command(STUDY, jobs, gpus, profile, {"warm": False})
    return dict(itertools.pairwise(command))


def test_what_a_profile_gives_wins_and_what_is_typed_wins_over_it() -> None:
    own = Profile(ROOT, {"executor": "local", "latency-wait": 99, "cores": 5, "resources": ["gpu=7"]})
    assert not {"--latency-wait", "--cores", "--resources"} & given(own).keys()
    assert given(own)["--scheduler"] == "greedy"
    assert given(own, jobs=3)["--cores"] == "6"  # two threads each
    assert given(own, gpus=2)["--resources"] == "gpu=2"
    assert given(Profile(), jobs=3, gpus=0)["--resources"] == "gpu=3"  # no GPU, no limit


def test_the_login_nodes_cores_and_gpus_are_no_limit_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    there = Profile(ROOT, {"executor": "slurm"})
    assert given(there)["--jobs"] == "unlimited"
    assert not {"--resources", "--cores"} & given(there).keys()
    assert "--jobs" not in given(Profile(ROOT, {"executor": "slurm", "jobs": 20}))
    assert given(there, jobs=4, gpus=2)["--jobs"] == "4"
    assert given(there, jobs=4, gpus=2)["--resources"] == "gpu=2"


def test_without_accounting_squeue_is_asked_unless_the_profile_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there = Profile(ROOT, {"executor": "slurm"})
    assert given(there)["--slurm-status-command"] == "squeue"
    assert "--slurm-status-command" not in given(
        Profile(ROOT, {"executor": "slurm", "slurm-status-command": "sacct"})
    )
    (tmp_path / "sacct").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "sacct").chmod(0o755)
    assert "--slurm-status-command" not in given(there)


def test_a_missing_plugin_or_sbatch_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("executor: lsf-of-nowhere\n")
    wanted = f"{sys.executable} -m pip install snakemake-executor-plugin-lsf-of-nowhere"
    with pytest.raises(UserError, match="which is not installed") as error:
        profiles.find_profile(str(tmp_path))
    assert wanted in str(error.value)
    monkeypatch.setattr(profiles, "find_spec", lambda _: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch on this machine. Start lrnb run where jobs are submitted"):
        profiles.find_profile("slurm")


def test_jobs_of_a_run_folder_have_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert slurm.job_prefix(tmp_path) == slurm.job_prefix(tmp_path / "link")
    assert slurm.job_prefix(tmp_path) != slurm.job_prefix(tmp_path / "other")
    assert len(slurm.job_prefix(tmp_path)) <= 50  # the plugin's limit


LOG = """[Mon Nov 30 23:01:01 2026]
Error in rule base:
    message: SLURM sbatch failed. The error message was 'sbatch: error: invalid partition specified: nowhere
sbatch: error: Batch job submission failed: Invalid partition name specified'.
    sbatch call:
        sbatch --parsable --job-name lrnb-11b0 -p nowhere --wrap="python -m snakemake"
For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: 1
    output: .stamps/base
Error in rule ct:
    message: SLURM-job '9' failed, SLURM status is: 'FAILED'. Detailed failure reason unavailable (status command is not 'sacct').For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: 2
Error in rule sft:
    message: SLURM-job '10' failed, SLURM status is: 'TIMEOUT'. Detailed failure reason unavailable (status command is not 'sacct').For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: 3
"""  # noqa: E501


def test_what_slurm_did_is_told_in_a_sentence_and_what_a_step_did_is_left_to_it() -> None:
    found = slurm.reasons(LOG)
    assert found.keys() == {"base", "sft"}
    assert (
        "sbatch refused its job (error: invalid partition specified: nowhere; error: Batch" in found["base"]
    )
    assert "time limit. Raise `runtime`" in found["sft"]
    assert all("\n" not in reason for reason in found.values())


SUBMITTED = """Job 1 has been submitted with SLURM jobid 17 (log: /runs/rule_x/.snakemake/slurm_logs/rule_ct/17.log).
[Mon Nov 30 23:01:01 2026]
rule nano/shared/base:
Job 4 has been submitted with SLURM jobid 18 (log: /runs/.snakemake/slurm_logs/rule_nano/shared/base/18.log).
"""  # noqa: E501


def test_steps_that_slurm_has_are_read_from_the_log() -> None:
    assert slurm.submitted(SUBMITTED) == {"ct", "nano/shared/base"}
    assert slurm.submitted(LOG) == set()


def test_an_interrupted_run_says_how_many_jobs_it_cancels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    jobs = [f"{number} {slurm.job_prefix(tmp_path)}_uuid" for number in (7, 8)]
    (tmp_path / "queue").write_text("\n".join([*jobs, "9 of-somebody-else\n"]))
    for name, body in (("squeue", "cat"), ("scancel", 'echo "$@" > {}.ids; : >')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body} {tmp_path}/queue\n".format(tmp_path / "queue"))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    runner.end_run(tmp_path, 0, "slurm")
    told = capsys.readouterr().err
    assert told == "lrnb: cancelling 2 jobs of Slurm; it may take a minute until they have ended\n"
    assert (tmp_path / "queue.ids").read_text() == "7 8\n"
    runner.end_run(tmp_path, 0, "slurm")
    assert capsys.readouterr().err == ""  # none is left


def asked(root: Path, *options: str) -> dict[str, dict[str, str]]:
    """The resources of every rule of the graph, as Snakemake itself would ask for them."""
    folder = root / "runs" / "nano" / "qaa"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(plan.as_yaml(STUDY.model_dump() | {"runs": str(root / "runs")}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile"), "--dry-run"]
    command += ["--directory", str(folder), "--cores", "8", "--nocolor", *options]
    command += ["--forceall", "--config", "due=" + ",".join(plan.plan(STUDY))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("rule "):
            rule = line.removeprefix("rule ").removesuffix(":")
        if line.strip().startswith("resources: "):
            parts = line.strip().removeprefix("resources: ").split(", ")
            found[rule] = dict(part.split("=", 1) for part in parts)
    return found


def test_steps_without_a_gpu_do_not_ask_for_its_partition_and_memory(tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout")
    options = read_yaml(ROOT / "profiles" / "slurm" / "config.yaml")
    flat = [
        f"{rule}:{name}={value}"
        for rule, asks in options["set-resources"].items()
        for name, value in asks.items()
    ]
    default = [f"{name}={value}" for name, value in options["default-resources"].items()]
    found = asked(root, "--default-resources", *default, "--set-resources", *flat, "ct:runtime=77")
    steps = plan.plan(STUDY)
    without = {name for name, step in steps.items() if not step.gpu}
    assert without == {"corpus", "scores", "report", "discarded", "signs", "saturation", "failures"}
    for name in without:
        assert "slurm_partition" not in found[name]
        assert (found[name]["gpu"], found[name]["mem_mb"], found[name]["runtime"]) == ("0", "16000", "120")
    for name in steps.keys() - without:
        assert (found[name]["gpu"], found[name]["tasks"]) == ("1", "0")
        assert found[name]["slurm_partition"] == "gpu"
        assert found[name]["mem_mb"] == "128000"
    assert (found["ct"]["runtime"], found["sft"]["runtime"]) == ("77", "2880")
    for spelt in (options["set-resources"] | {"ct": {"runtime": 77}}, [*flat, "ct:runtime=77"]):
        profile = Profile(root, {"default-resources": default, "set-resources": spelt})
        for name, node in graph.graph([STUDY]).items():
            told = profile.requests(resources_of(node.step, STUDY), node.classes)
            assert {key: str(value) for key, value in told.items()}.items() <= found[name].items()
