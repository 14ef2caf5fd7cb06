"""The declarations: options checked in one place, and what a new method takes: a file and a line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import one_layer
from support.reference import save_folder

from lrnb.analysis.kinds import KINDS
from lrnb.errors import UserError
from lrnb.merging.methods import METHODS, find
from lrnb.merging.registry import LARGEST, Option
from lrnb.study.parameters import ROOT, Study

BOTH = ["ct", "sft"]


# options


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (0.5, (0.5, 0.5)),
        ("0.5", (0.5, 0.5)),
        (1, (1.0, 1.0)),
        ([0.5, 1], (0.5, 1.0)),
        ({"sft": 0.5}, (1.0, 0.5)),
        ({"sft": 0.5, "ct": 0.25}, (0.25, 0.5)),
        (np.float32(0.5), (0.5, 0.5)),
        (np.array([0.5, 1]), (0.5, 1.0)),
    ],
)
def test_a_number_by_parent_is_one_float_each_in_their_order(given, wanted):
    assert find("ties").settle(BOTH, {"density": given}).density == wanted


def test_defaults_are_filled_in_and_none_counts_as_not_given():
    options = find("ties").settle(BOTH, {"density": 1, "weights": None, "lam": None})
    assert (options.weights, options.lam, options.normalize) == ((1.0, 1.0), 1.0, True)
    assert (options.trim_scope, options.zero_sign) == ("model", "majority")


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("ties", {"densty": 1}, "ties has no densty; its options are .*; did you mean density?"),
        ("ties", {}, "ties needs density, the share of entries kept"),
        ("ties", {"density": None}, "ties needs density"),
        ("ties", {"density": 0}, r"ties: density must lie in \(0, 1\], got 0"),
        ("ties", {"density": True}, "ties: density: expected a number, got True"),
        ("ties", {"density": [1, "x"]}, "ties: density: expected a number, got 'x'"),
        ("ties", {"density": [1]}, "ties: density: 1 values for 2 parents"),
        ("ties", {"density": {"it": 1}}, "ties: density: no parent 'it'; parents are"),
        ("ties", {"density": 1, "lam": [1, 1]}, "ties: lam: expected a number"),
        ("ties", {"density": 1, "normalize": "yes"}, "ties: normalize: expected true or false, got 'yes'"),
        ("ties", {"density": 1, "zero_sign": "no"}, "ties: zero_sign must be one of majority, positive"),
        ("ties_sv", {"density": 1, "slack": 1, "protect": "it"}, "protect: no parent is called 'it'; give"),
        ("ties_sv", {"density": 1}, r"ties_sv needs one of slack \(a share\) and slack_threshold"),
        (
            "ties_sv",
            {"density": 1, "slack": 1, "weights": 0},
            "ties_sv needs weights other than 0 for one",
        ),
        ("slerp", {}, "slerp takes 2 models, got 3: ct, sft, it"),
        ("nuslerp", {}, "nuslerp takes 2 models beside the base, got 3"),
    ],
)
def test_what_is_wrong_is_named_with_its_range(method, given, message):
    parents = [*BOTH, "it"] if "slerp" in method else BOTH
    with pytest.raises(UserError, match=message):
        find(method).settle(parents, given)


def test_messages_speak_as_they_are_asked_to():
    with pytest.raises(UserError, match=r"^merge ties: --density must lie in \(0, 1\], got 2$"):
        find("ties").settle(BOTH, {"density": 2}, who="merge ties", spell=lambda name: f"--{name}")


def test_an_unknown_method_has_a_nearest_one():
    with pytest.raises(UserError, match="unknown merge method 'tise'; methods are .*; did you mean 'ties'?"):
        find("tise")


# declarations


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_declaration_says_what_everything_reads(method):
    assert METHODS[method.name] is method
    assert re.fullmatch(r"[a-z_]+", method.name)
    assert method.label and method.summary and method.source and method.cost > 0
    for name, option in method.fields().items():
        assert option.help, name
        wide = option.low == -LARGEST and option.high == LARGEST
        assert option.kind in ("number", "switch", "choice", "folder", "parent")
        assert bool(option.choices) == (option.kind == "choice")
        assert wide or option.kind == "number"
        assert not option.parameter or option.parameter in Study.model_fields, name
        for candidate in option.search:
            assert option.read(name, candidate) == candidate
        if option.kind == "number" and option.default is not None and not option.required:
            assert option.read(name, option.default) == option.default


def test_no_two_methods_look_alike():
    for what in ("colour", "symbol"):
        found: dict[str, list[str]] = {}
        for name, kind in KINDS.items():
            found.setdefault(getattr(kind.look, what), []).append(name)
        assert {look: names for look, names in found.items() if len(names) > 1} == {}, what


def test_an_option_is_the_same_thing_to_every_command():
    """One flag has one kind, whatever the method; a folder may be of one parent, or of each by its name."""
    kinds: dict[str, set[tuple]] = {}
    for method in METHODS.values():
        for name, option in method.fields().items():
            kinds.setdefault(option.flag or name, set()).add(
                (option.kind, option.choices, option.named and option.kind == "number")
            )
    assert {flag: found for flag, found in kinds.items() if len(found) > 1} == {}


def test_no_code_asks_how_a_method_is_spelled():
    """In merging and the command, but for the files of the methods, no text is a method's name."""
    folders = [ROOT / "lrnb" / "merging", ROOT / "lrnb" / "cli"]
    names = re.compile(rf"""["']({"|".join(METHODS)}|ties-sv|task-arithmetic)["']""")
    files = [path for folder in folders for path in folder.glob("*.py")]
    found = {path.name: names.findall(path.read_text()) for path in files}
    assert {name: hits for name, hits in found.items() if hits} == {}
    assert not any('startswith("ties' in path.read_text() for path in files)


# docs


def table() -> str:
    """The table of methods in docs/merging.md."""
    lines = ["| method | what it does | options (* searched on dev) | takes | in mergekit | source |"]
    lines += ["|---|---|---|---|---|---|"]
    for method in METHODS.values():
        searched = method.searched()
        options = ", ".join(cell(name, option, name in searched) for name, option in method.fields().items())
        least, most = method.parents
        takes = ("the base and " if method.base else "") + (
            f"{least}" if least == most else f"{least} or more"
        )
        kit = f"`{method.mergekit.name}`" if method.mergekit else ""
        name = method.name.replace("_", "-")
        lines.append(f"| `{name}` | {method.summary} | {options} | {takes} | {kit} | {method.source} |")
    return "\n".join(lines) + "\n"


def cell(name: str, option: Option, searched: bool) -> str:
    flag = (option.flag or name).replace("_", "-")
    return f"`--{flag}`{'*' if searched else ''}{f' {option.range}' if option.range else ''}"


def test_the_table_of_the_docs_is_made_from_the_declarations():
    """Where it is not, the failed comparison shows the rows to put there."""
    page = (ROOT / "docs" / "merging.md").read_text(encoding="utf-8")
    assert [row for row in table().splitlines() if row not in page.splitlines()] == []


# a made-up method

MADE_UP = '''"""The largest entry of all parents' task vectors, for a test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrnb.merging.linear import OfTaskVectors
from lrnb.merging.registry import Look, Mergekit, Method, Options, option


@dataclass(frozen=True, kw_only=True)
class Leader(Options):
    boost: float = option("factor on the leader", 1.0, low=0, high=4, search=(1.0, 2.0), mergekit="boost")
    calm: tuple[float, ...] = option("factor on a parent", 0.0, per_parent=True)


def prepare(vectors, names, options):
    factors = [options.boost, *options.calm[1:]]
    return OfTaskVectors(vectors, names, factors)


METHOD = Method(
    name="leader",
    label="Leader",
    summary="the first parent, and little of the others",
    source="made up",
    look=Look("#123456", "pentagon"),
    options=Leader,
    prepare=prepare,
    parents=(2, 0),
    mergekit=Mergekit("leader"),
)
'''
RECIPE = """merge_method: leader
base_model: base
models: [{model: ct}, {model: sft}]
parameters: {boost: 2}
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package with one file and one line more, beside base, ct and sft."""
    shutil.copytree(ROOT / "lrnb", tmp_path / "lrnb", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "lrnb" / "merging" / "methods"
    (folder / "leader.py").write_text(MADE_UP)
    lines = (folder / "__init__.py").read_text()
    assert lines.count('    "slerp",\n') == 1
    (folder / "__init__.py").write_text(lines.replace('    "slerp",\n', '    "slerp",\n    "leader",\n'))
    (shapes, config), rng = one_layer(16), np.random.default_rng(0)
    for name in ("base", "ct", "sft"):
        tensors = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        save_folder(tmp_path / name, tensors, config=config)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_contributing_says_how_many_files_a_method_takes(house: Path):
    pages = {path.relative_to(house): path.read_bytes() for path in (house / "lrnb").rglob("*.py")}
    changed = [
        path
        for path, text in pages.items()
        if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != text
    ]
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| merge method \|.*\| (\d+) \|$", page, re.MULTILINE)
    assert told == [str(len(changed))]


def test_a_method_is_one_file_and_one_line(house: Path):
    """It runs from the command line, from a recipe and from Python, and its card and help tell of it."""

    def run(*given: str) -> str:
        words = [sys.executable, "-P", "-c", "import sys; sys.path.insert(0, '.'); " + given[0], *given[1:]]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(house)}
        done = subprocess.run(words, cwd=house, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def merge(*given: str) -> str:
        return run("from lrnb.cli.main import main; sys.exit(main())", "merge", *given)

    told = merge("--help")
    assert "  leader              the first parent, and little of the others\n" in told
    assert "--boost --calm" in told and "factor on the leader" not in told
    own = merge("leader", "--help")
    assert "the first parent, and little of the others (made up)" in own
    assert "--boost N factor on the leader, [0, 4] (default 1.0)" in " ".join(own.split())
    models = ("--base", "base", "--model", "ct=ct", "--model", "sft=sft")
    merge("leader", *models, "--boost", "2", "--out", "one")
    merge("recipe.yaml", "--out", "two")
    run(
        "from lrnb.merging.whole_models import merge_checkpoints as m; "
        "m('leader', 'base', {'ct': 'ct', 'sft': 'sft'}, 'three', boost=2)"
    )
    weights = {(house / out / "model.safetensors").read_bytes() for out in ("one", "two", "three")}
    assert len(weights) == 1
    answers = json.loads((house / ".cache" / "lrnb" / "openings.json").read_text())
    assert [*answers.values()] == [[]]  # transformers was asked once whether it opens them
    card = (house / "one" / "README.md").read_text()
    assert "# Merge by leader" in card and "- boost: 2.0" in card and "- calm: ct 0.0, sft 0.0" in card
    recipe = json.loads((house / "one" / "manifest.json").read_text())["report"]["recipe"]
    assert (recipe["method"], recipe["boost"]) == ("leader", 2.0)
