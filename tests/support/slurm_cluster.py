"""A real cluster of one node: munged, slurmctld and slurmd of this machine, started by hand in a folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """ClusterName=trial
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_min_interval=200000
KillWait=5
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs=8 RealMemory=300000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={node} Default=YES State=UP
PartitionName=gpu Nodes={node} State=UP
"""


SRUN = """#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""  # Snakemake's plugin drops SLURM_CONF in its jobs; a site has its configuration in /etc


def missing() -> str:
    """What this machine lacks for a cluster, "" for nothing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacks = [name for name in NEEDED if shutil.which(name, path=path) is None]
    lacks += [] if find_spec("snakemake_executor_plugin_slurm") else ["snakemake-executor-plugin-slurm"]
    return ", ".join(lacks)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Two partitions, cpu and gpu, without slurmdbd; yields the variables under which its commands work."""
    folder.chmod(0o755)  # munged looks at who could write there
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = {"ctld": free_port(), "slurmd": free_port()}
    user = getpass.getuser()
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, node=platform.node(), user=user, **ports))
    for number in range(2):
        (folder / f"gpu{number}").touch()  # what stands for a device
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o600)
    path = f"{folder}:{os.environ['PATH']}:/usr/sbin:/sbin"
    variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    (folder / "srun").write_text(SRUN.format(folder=folder, srun=shutil.which("srun")))
    (folder / "srun").chmod(0o755)
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file")]
    munge += [f"--key-file={folder}/key", f"--seed-file={folder}/seed", "--force", "--foreground"]
    with contextlib.ExitStack() as stack:
        for command in (["munged", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            log = stack.enter_context(open(folder / f"{command[0]}.out", "w"))
            started = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)
            stack.callback(end, started)
            time.sleep(1)
        wait_idle(variables, folder)
        try:
            yield variables
        finally:
            subprocess.run(["scancel", "--user", user], env=os.environ | variables, timeout=60, check=False)


def end(process: subprocess.Popen) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    process.kill()


def wait_idle(variables: dict[str, str], folder: Path) -> None:
    command = ["sinfo", "--noheader", "--format=%T"]
    for _ in range(30):
        done = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
        )
        if set(done.stdout.split()) == {"idle"}:
            return
        time.sleep(1)
    raise AssertionError("\n".join(path.read_text() for path in folder.glob("*.log")))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
