"""One notebook run safely: checked parameters, this Python, an output that is complete or not there.

papermill alone accepts misspelt parameters, executes parameter names, and leaves "completed" on the cells
of a killed kernel; so names and types are checked before, and every cell after.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

from filelock import FileLock, Timeout

from lrnb.errors import TryAgain, UserError, did_you_mean
from lrnb.merging.methods import METHODS
from lrnb.pipeline import freshness, warm
from lrnb.pipeline import steps as plan
from lrnb.pipeline.steps import Step
from lrnb.study.files import (
    default_cache,
    full_disk,
    full_disk_message,
    is_full_disk,
    json_object,
    lock,
    make_folder,
    sweep,
    unfinished,
    write_text,
)
from lrnb.study.parameters import ROOT, Study, validate
from lrnb.study.parameters_cell import notebook_params
from lrnb.study.stages import RunPaths
from lrnb.tuning.search import check_methods

TOLD = (UserError.__name__, TryAgain.__name__)  # errors of cells that are told by their message alone
ANSI = re.compile(r"\x1b\[[0-9;]*m")
THREAD_VARIABLES: tuple[str, ...] = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip  # the last one is of tokenizers
PATIENCE = 300  # seconds to start a kernel, and for its last words after a cell; papermill gives them 4
EXTENSION = "lrnb.pipeline.offline_figures"  # of IPython: how the kernel keeps figures
QUIET = {
    "LRNB_HEADLESS": "1",  # figures for widgets: a kept widget holds megabytes and shows nothing
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the same sums on every run of a GPU
}


class NotebookFailed(Exception):
    """A cell raised, or the kernel died. The message holds the error in full and where the copy is.

    `is_final`: it was a UserError, so that another attempt would end as this one did.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


def exec_notebook(
    notebook: Path, params: Mapping[str, Any], out: Path, env: Mapping[str, str] | None = None
) -> Path:
    """Run `notebook` with `params` and store the executed copy as `out`, whole or not at all.

    After a failure the copy so far is `<out stem>.failed.ipynb`. The kernel is this Python, its folder the
    checkout. Raises UserError for a parameter that the notebook does not declare or that has another type,
    NotebookFailed for an error in a cell or a killed kernel.
    """
    notebook, out = Path(notebook).resolve(), Path(out).resolve()
    values = check_params(notebook, params)
    make_folder(out.parent)
    temporary = out.with_name(f"{unfinished(out)}{os.getpid()}.ipynb")
    failed = out.with_name(f"{out.stem}.failed.ipynb")
    try:
        with _environ(QUIET | {"LRNB_NOTEBOOK": _shown(notebook)} | dict(env or {})):
            _papermill(notebook, temporary, values)
        _require_every_cell(temporary)
        os.replace(temporary, out)
    except Exception as error:
        kept = _keep(temporary, failed)
        if is_full_disk(error):
            raise NotebookFailed(f"{_shown(notebook)}: {full_disk(out.parent)}\n{kept}") from error
        is_final = getattr(error, "ename", "") == UserError.__name__
        raise NotebookFailed(f"{_shown(notebook)}: {_explain(error)}\n{kept}", is_final=is_final) from error
    finally:
        temporary.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    return out


def _papermill(notebook: Path, out: Path, values: dict[str, Any]) -> None:
    # nbformat would load this to check links: a grammar that takes 0.7 s to build, never used here
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill

    papermill.execute_notebook(
        *(re.sub(r"([{}])", r"\1\1", str(path)) for path in (notebook, out)),  # papermill formats paths
        parameters=values,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        cwd=ROOT,
        start_timeout=PATIENCE,
        iopub_timeout=PATIENCE,
        kernel_manager_class=_this_python(),
    )


def _this_python() -> type:
    """A kernel manager that starts the running interpreter, whatever kernels are registered.

    In a step that a nursery forked the kernel is there and waits for its order. On Linux the two speak over
    abstract Unix sockets: a TCP port is chosen, let go and bound again a second later, and where many
    processes run, another may have taken it ("Kernel died before replying to kernel_info"). As with TCP, the
    key of jupyter's messages keeps other users of the machine out.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning import LocalProvisioner

    waiting = os.environ.pop(warm.KERNEL, "")

    class Waiting(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
            kernel, self.cwd = warm.ForkedKernel(waiting), str(kwargs.get("cwd") or Path.cwd())
            kernel.launch(cmd, kwargs["env"], self.cwd)
            self.process = kernel  # type: ignore[assignment]  # a part of Popen is enough
            self.pid = self.pgid = kernel.pid
            return self.connection_info

    class ThisPython(AsyncKernelManager):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            if sys.platform == "linux":
                self.transport, self.ip = "ipc", f"@lrnb-{os.getpid()}-{secrets.token_hex(8)}"
            if waiting:
                self.provisioner = Waiting(parent=self, kernel_spec=self.kernel_spec)

        @property
        def kernel_spec(self) -> KernelSpec:
            # level: the interrupt before every shutdown, met by a kernel's last reply, is logged as an error
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=50"]
            argv += [f"--IPKernelApp.extra_extensions={EXTENSION}"]
            return KernelSpec(argv=argv, language="python", display_name="Python 3 (ipykernel)")

    return ThisPython


def check_params(notebook: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` if the notebook declares each with that type; UserError otherwise, before anything runs."""
    if not notebook.is_file():
        raise UserError(f"{notebook}: no such notebook; those of the study are below {ROOT / 'notebooks'}")
    declared = notebook_params(notebook) if params else {}
    for name, value in params.items():
        if not str(name).isidentifier():
            raise UserError(f"{_shown(notebook)}: {name!r} cannot be a parameter: not a Python name")
        if name not in declared:
            hint = did_you_mean(name, declared) or f"; it declares {', '.join(declared)}"
            raise UserError(f"{_shown(notebook)}: unknown parameter {name!r}{hint}")
        if not _fits(value, declared[name], name):
            kind = type(declared[name]).__name__
            raise UserError(
                f"{_shown(notebook)}: {name} is {value!r}, expected {kind} like {declared[name]!r}"
            )
    known = {k: v for k, v in (declared | dict(params)).items() if k in Study.model_fields}
    check_methods(validate({"methods": [*METHODS]} | known, _shown(notebook)))
    return dict(params)


def _fits(value: Any, default: Any, name: str = "") -> bool:
    """Whether `value` may stand where `default` stands. The study's own numbers are checked by `validate`."""
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if name in Study.model_fields and isinstance(value, str) and not isinstance(default, str):
        kinds = get_args(Study.model_fields[name].annotation)
        return any(value in get_args(kind) for kind in kinds)  # a word for a number: auto
    if isinstance(default, int | float):
        return isinstance(
            value, int if isinstance(default, int) and name not in Study.model_fields else int | float
        )
    if isinstance(default, list) and isinstance(value, list):
        return not default or all(_fits(item, default[0], name) for item in value)
    return isinstance(value, type(default))


@contextlib.contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the kernel, put back afterwards."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _require_every_cell(executed: Path) -> None:
    """A killed kernel can leave a quiet notebook: every code cell must have run without an exception."""
    for index, cell in enumerate(json.loads(executed.read_text(encoding="utf-8"))["cells"]):
        facts = cell.get("metadata", {}).get("papermill", {})
        ran = (
            cell.get("execution_count") and facts.get("status") == "completed" and not facts.get("exception")
        )
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip() and not ran:
            raise RuntimeError(f"cell {index} did not run to its end (status {facts.get('status')!r})")


def _explain(error: Exception) -> str:
    """The cell's error in full; for a UserError its message alone."""
    kind = type(error).__name__
    if kind == "DeadKernelError":
        return (
            "the kernel was killed (out of memory, or by hand). Free memory, or use a smaller batch "
            "(ct_batch, micro_batch, sft_batch, eval_batch) or fewer --jobs, then run the same command again"
        )
    if kind == "PapermillExecutionError":
        where = f"cell {error.cell_index + 1}"  # type: ignore[attr-defined]
        if error.ename in TOLD:  # type: ignore[attr-defined]
            return f"{where}: {error.evalue}"  # type: ignore[attr-defined]
        return f"{where}:\n" + ANSI.sub("", "\n".join(error.traceback))  # type: ignore[attr-defined]
    return f"{kind}: {error}"


def _keep(temporary: Path, failed: Path) -> str:
    if not temporary.exists():
        return "No executed copy was written."
    os.replace(temporary, failed)
    return f"The notebook as far as it came: {failed}"


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def run_step(study: Study, name: str, *, keep_code: bool = False) -> None:
    """Run one step of a study: what each rule of the Snakefile calls, headless, on a node or on this box.

    Studies that share a step wait for each other here, and the second finds it done. A step whose inputs
    change while it runs stays outdated: nobody can say which ones it saw. `keep_code`: see
    `freshness.why_due`.
    """
    steps = plan.plan(study)
    if name not in steps:
        raise UserError(f"no step {name!r} in this study; steps are {', '.join(steps)}")
    step, status = steps[name], Status(study, name)
    try:
        with full_disk_message(step.home):
            _run_alone(steps, step, study, status, keep_code)
    except (Exception, KeyboardInterrupt) as error:
        mistake = isinstance(error, UserError) and not isinstance(error, TryAgain)
        is_final = mistake or getattr(error, "is_final", False)
        told = str(error) if isinstance(error, UserError | NotebookFailed) else repr(error)
        with contextlib.suppress(OSError):  # of a full disk
            status.set("failed", told, is_final)
        raise


def _run_alone(steps: dict[str, Step], step: Step, study: Study, status: Status, keep_code: bool) -> None:
    """Make a step that is not up to date, when nobody else is at it and what it computes on is free."""
    status.progress.unlink(missing_ok=True)
    status.set("waiting")
    note = ""
    with lock(step.home / ".locks" / step.name), gpu_slot(step, study) as gpu:
        status.set("running")
        sweep_left_over(step)
        if freshness.why_due(step, steps, study, keep_code):
            note = _make_and_record(steps, step, study, status.progress, gpu, keep_code)
    status.set("done", note)


def sweep_left_over(step: Step) -> None:
    """Remove what killed attempts at a step left half-made, on whichever machine. For who holds its lock."""
    for path in [*(result.parent for result in step.results), step.record, step.executed]:
        sweep(path, everywhere=True)


def _make_and_record(
    steps: dict[str, Step], step: Step, study: Study, progress: Path, gpu: dict[str, str], keep_code: bool
) -> str:
    """Make a step; record it if its inputs stayed as they were, else return a message that says so."""
    key = freshness.input_key(step, steps, study)
    step.record.unlink(missing_ok=True)
    _make(step, study, environment(study) | {"LRNB_PROGRESS": str(progress)} | gpu)
    freshness.package_hash.cache_clear()
    if changed := freshness.changed_inputs(key, freshness.input_key(step, steps, study), keep_code):
        print(note := f"{step.name}: {', '.join(changed)} changed while it ran; the next run makes it again")
        return note
    freshness.remember(step, key)
    return ""


def rewrite_report(study: Study) -> None:
    """Write a finished study's report again, for what it shows of other seeds; it stays up to date."""
    step = (steps := plan.plan(study))["report"]
    with lock(step.home / ".locks" / step.name):
        _make(step, study, {})
        freshness.remember(step, freshness.input_key(step, steps, study))


def _make(step: Step, study: Study, env: dict[str, str]) -> None:
    if step.notebook:
        exec_notebook(step.source, plan.step_params(step, study), step.executed, env)
    else:
        from lrnb.report.page import write_report

        write_report(RunPaths(study).lang)
    if missing := [str(path) for path in step.results if not path.is_file()]:
        raise NotebookFailed(f"{step.name} ended without an error but did not write {', '.join(missing)}")


class Status:
    """How a step stands, for the runner to show: `.status/<step>.json`, and its progress beside it."""

    def __init__(self, study: Study, name: str) -> None:
        folder = RunPaths(study).lang.resolve() / ".status"
        self.path, self.progress = folder / f"{name}.json", folder / f"{name}.progress.json"

    def forget(self) -> None:
        """Let a new run find nothing that an older one wrote, whatever the clocks say."""
        for path in (self.path, self.progress):
            path.unlink(missing_ok=True)

    def set(self, state: str, error: str = "", is_final: bool = False) -> None:
        """States: waiting (for another study that makes it), running, done, failed."""
        now = time.time()
        self.started = now if state == "running" else getattr(self, "started", now)
        facts = {"state": state, "started": self.started, "time": now, "error": error, "is_final": is_final}
        write_text(self.path, json.dumps(facts))

    def is_final(self) -> bool:
        """Whether the step failed in a way that only the user can mend."""
        return bool(json_object(self.path).get("is_final"))


def environment(study: Study) -> dict[str, str]:
    """Variables of all kernels of a study: threads, no Hub unless the study names one."""
    env = dict.fromkeys(THREAD_VARIABLES, str(study.threads))
    env["TOKENIZERS_PARALLELISM"] = str(study.threads > 1).lower()
    return env if needs_hub(study) else env | {"HF_HUB_OFFLINE": "1"}


def needs_hub(study: Study) -> bool:
    """Whether a model or a data set of the study may have to come from the Hugging Face Hub."""
    given = [study.base_source] + ([] if study.trains else [study.released_ct, study.released_sft])
    away = [name for name in given if not (name.startswith(("scratch", "gguf:")) or Path(name).is_dir())]
    return bool(away) or (study.trains and (study.corpus_source == "hub" or bool(study.sft_dataset)))


@contextlib.contextmanager
def gpu_slot(step: Step, study: Study) -> Iterator[dict[str, str]]:
    """CUDA_VISIBLE_DEVICES for a step; waits until as many GPUs as it wants are free. Empty without GPUs.

    Free among the steps of this box, or of this job of Slurm: what another job holds has another name there.
    """
    gpus = usable_gpus(study) if step.gpu else []
    if not gpus:
        yield {}
        return
    wanted = devices_of(step, study)
    while len(slots := _free_gpus(gpus, wanted)) < wanted:
        for held in slots.values():
            held.__exit__(None, None, None)
        time.sleep(1 + random.random())  # two that want several do not meet again
    with contextlib.ExitStack() as stack:
        for held in slots.values():
            stack.push(held.__exit__)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(slots)}


def _free_gpus(gpus: Iterable[str], wanted: int) -> dict[str, AbstractContextManager[Any]]:
    """The first GPUs that nobody holds, at most as many as wanted, each with what gives it back."""
    found: dict[str, AbstractContextManager[Any]] = {}
    folder = make_folder(default_cache() / "gpus")
    place = f"{os.getuid()}-{platform.node()}-{os.environ.get('SLURM_JOB_ID', '')}"
    for gpu in gpus:
        path = folder / f"{place}-{gpu.replace('/', '_')}.lock"
        with contextlib.suppress(Timeout):
            if len(found) < wanted:
                found[gpu] = FileLock(path).acquire(timeout=0)
    return found


def devices_of(step: Step, study: Study) -> int:
    """How many devices of a machine a step computes on: `devices` where its notebook trains, else one."""
    if not (step.notebook and "devices" in notebook_params(step.source) and study.trains):
        return 1
    return max(1, len(usable_gpus(study))) if study.devices == "auto" else study.devices


def threads_of(step: Step, study: Study) -> int:
    """CPU threads of all processes of a step."""
    return study.threads * devices_of(step, study)


def resources_of(step: Step, study: Study) -> dict[str, int]:
    """What Snakemake counts for a step, and Slurm gives it: GPUs over all nodes."""
    trains = step.notebook and "devices" in notebook_params(step.source) and study.trains
    nodes = study.nodes if trains else 1
    gpu = devices_of(step, study) * nodes * step.gpu
    tasks = 0 if step.gpu else 1  # with a GPU, older plugins would start the step once for each
    return {"gpu": gpu, "tasks": tasks} | ({"nodes": nodes} if nodes > 1 else {})


def usable_gpus(study: Study) -> list[str]:
    """The GPUs of NVIDIA that a study computes on."""
    return visible_gpus() if study.device in ("auto", "cuda") else []


def visible_gpus() -> list[str]:
    """GPUs that may be used: those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in given.split(",") if gpu.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]
