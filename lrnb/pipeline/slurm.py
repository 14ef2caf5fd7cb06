"""What a run asks Slurm itself, beside Snakemake's plugin: does it keep accounts, which jobs are left."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from lrnb.study.files import digest

PREFIX = "slurm-jobname-prefix"  # the option of Snakemake's plugin
ERROR = re.compile(r"^Error in rule (\S+):\n    message: (.*?)\n    jobid: ", re.DOTALL | re.MULTILINE)
STATE = re.compile(r"SLURM status is: '(\w+)'")
SUBMITTED = re.compile(
    r"has been submitted with SLURM jobid \S+ \(log: .*/rule_(.+)/[^/]*\)\.$", re.MULTILINE
)
REFUSED = re.compile(r"SLURM sbatch failed\. The error message was '(.*?)'\.\n", re.DOTALL)
ENDED = {
    "TIMEOUT": "its job reached its time limit. Raise `runtime` in the profile",
    "DEADLINE": "its job could not end before its deadline. Lower `runtime` in the profile",
    "OUT_OF_MEMORY": "its job took more memory than it asked for. Raise `mem_mb` in the profile",
    "NODE_FAIL": "the node that it ran on failed",
    "BOOT_FAIL": "the node that it was to run on did not start",
    "PREEMPTED": "its job had to give way to another (preempted)",
    "CANCELLED": "its job was cancelled, by scancel or by an administrator",
}
SOON = 5.0  # seconds that a person waits for an answer without a word
PATIENCE = 60.0  # seconds for jobs to end that were cancelled: Slurm's KillWait is 30


def job_prefix(folder: Path) -> str:
    """Begins the names of all jobs of a run folder, on whichever node it is asked."""
    return f"lrnb-{digest(str(folder.resolve()))[:12]}"


def arguments(folder: Path) -> dict[str, str]:
    """Options of Snakemake's plugin: names of jobs, and squeue where no accounting answers.

    Without slurmdbd the plugin would ask sacct, get an error, and wait for ever.
    """
    options = {PREFIX: job_prefix(folder)}
    return options if has_accounting() else options | {"slurm-status-command": "squeue"}


def has_accounting() -> bool:
    """Whether sacct answers: whether there is a slurmdbd, and it works."""
    return _ask("sacct", "--noheader", "--allocations") is not None


def jobs(folder: Path, patience: float = PATIENCE) -> list[str] | None:
    """Ids of the jobs of a run folder that wait, run or are ending; None where Slurm does not answer."""
    if (listed := _ask("squeue", "--me", "--noheader", "--format=%i %j", patience=patience)) is None:
        return None
    found = (line.split() for line in listed.splitlines())
    return [job for job, name in found if name.startswith(f"{job_prefix(folder)}_")]


def submitted(log: str) -> set[str]:
    """The steps that Snakemake has submitted so far, from its log: those that have not begun are queued."""
    return set(SUBMITTED.findall(log))


def cancelling(folder: Path) -> str:
    """What is to be said before the jobs of a run folder are cancelled; "" where none is known."""
    found = jobs(folder, SOON) or []
    which = "1 job" if len(found) == 1 else f"{len(found)} jobs"
    return f"cancelling {which} of Slurm; it may take a minute until they have ended" if found else ""


def cancel_jobs(folder: Path) -> str:
    """Cancel the jobs of a run folder and wait until they have ended; says which did not, "" for none.

    Looks until two answers in a row name none: sbatch may have had one in hand when Snakemake ended.
    """
    until, quiet = time.monotonic() + PATIENCE, 0
    while quiet < 2 and time.monotonic() < until:
        left = jobs(folder)
        quiet = quiet + 1 if left == [] else 0
        if left:
            _ask("scancel", *left)
        time.sleep(1)
    if quiet == 2:
        return ""
    which = f"job {', '.join(left)} has not ended" if left else "Slurm does not answer"
    return f"{which}; look with squeue --me, and end what is left with scancel"


def reasons(log: str) -> dict[str, str]:
    """Step -> why Slurm, not the step itself, ended or refused it at last, from Snakemake's log."""
    found = {}
    for step, message in ERROR.findall(log):
        ended, refused = STATE.search(message), REFUSED.search(message)
        if ended and ended[1] in ENDED:
            found[step] = ENDED[ended[1]]
        elif refused:
            said = "; ".join(line.strip().removeprefix("sbatch: ") for line in refused[1].splitlines())
            found[step] = f"sbatch refused its job ({said}). Mend the profile's resources: docs/cluster.md"
    return found


def _ask(*command: str, patience: float = PATIENCE) -> str | None:
    """What a command of Slurm prints; None where it fails, is not there, or takes longer."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout if found.returncode == 0 else None
