"""A new language: its files, what is refused, and what `lrnb check` says of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from support.bpe import bpe_spec, save_bpe

from lrnb.cli import main
from lrnb.errors import UserError
from lrnb.pipeline import new_language
from lrnb.study import parameters
from lrnb.study.files import write_text
from lrnb.training import base


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params/, in which the command is typed; no base of this machine's user is at hand."""
    root = shutil.copytree(parameters.ROOT / "params", tmp_path / "checkout" / "params").parent
    for code in ("kk", "km"):  # Kazakh and Khmer are made anew
        (root / "params" / f"{code}.yaml").unlink()
    monkeypatch.setattr(new_language, "ROOT", root)
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LRNB_DATA", raising=False)
    monkeypatch.chdir(root)
    return root


def lrnb(*arguments: object) -> int:
    return main.main([str(argument) for argument in arguments])


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_example_rows_have_every_kind_and_no_study_runs_on_them(
    checkout: Path, capsys: pytest.CaptureFixture
) -> None:
    assert lrnb("new", "kk", "--script", "Cyrillic") == 0
    assert "put your rows into" in capsys.readouterr().out
    given = yaml.safe_load((checkout / "params/kk.yaml").read_text())
    assert (given["lang"], given["lang_name"], given["script"]) == ("kk", "Kazakh", "Cyrillic")
    files = tree(checkout / "data/kk")
    tasks = ("topic", "reading_comprehension", "response_selection", "math")
    kinds = {f"eval/{t}/{c}/{s}.jsonl" for t in tasks for c in ("kk", "en") for s in ("dev", "test")}
    kinds |= {f"sft/{t}.jsonl" for t in tasks} | {"corpus/kk.jsonl", "corpus/en.jsonl"}
    assert set(files) == kinds | {"README.md"}
    assert all(len(text.splitlines()) == 2 for name, text in files.items() if name != "README.md")
    for command in (("check",), ("run", "--dry-run", "--preset", "smol")):
        assert lrnb(command[0], "params/kk.yaml", *command[1:]) == 2
        told = "".join(capsys.readouterr())
        for name in (
            "corpus/kk.jsonl",
            "corpus/en.jsonl",
            "topic/kk/test.jsonl:1",
            "topic/en/dev.jsonl:1",
            "sft/topic.jsonl:1",
        ):
            assert f"{name}: the rows are still the examples" in told


def test_a_data_folder_that_is_there_gets_rows_in_x_alone(checkout: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "data/corpus/en.txt", "own")
    write_text(tmp_path / "data/eval/topic/kk/test.tsv", "text\tcategory\nown\ttravel\n")
    assert lrnb("new", "kk", "--script", "Cyrillic", "--data-root", tmp_path / "data") == 0
    files = tree(tmp_path / "data")
    assert files["corpus/en.txt"] == "own"
    assert {"corpus/kk.jsonl", "eval/math/kk/test.jsonl"} <= set(files)
    assert [name for name in files if "/en" in name or "sft" in name] == ["corpus/en.txt"]
    assert [name for name in files if "topic" in name] == ["eval/topic/kk/test.tsv"]
    assert "runs" not in yaml.safe_load((checkout / "params/kk.yaml").read_text())  # the base is shared


def test_examples_of_the_tasks_that_one_has(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    assert lrnb("new", "kk", "--script", "Cyrillic", "--tasks", "topic") == 0
    files = {f"eval/topic/{code}/{split}.jsonl" for code in ("kk", "en") for split in ("dev", "test")}
    files |= {"README.md", "sft/topic.jsonl", "corpus/kk.jsonl", "corpus/en.jsonl"}
    assert set(tree(checkout / "data/kk")) == files
    (checkout / "params/kk.yaml").unlink()
    assert lrnb("new", "kk", "--script", "Cyrillic", "--tasks", "math", "--data-root", "data/sums") == 0
    study = parameters.load_study(checkout / "params/kk.yaml", "smol")
    assert (study.tasks, study.tasks_en, study.dev_tasks) == (["math"], ["math"], ["math"])
    assert study.sft_mix == {"math": 400}
    (checkout / "params/kk.yaml").unlink()
    for given, message in (("topics", "did you mean 'topic'"), ("belebele", "docs/tasks.md has the rows")):
        assert lrnb("new", "kk", "--script", "Cyrillic", "--tasks", given) == 2
        assert message in capsys.readouterr().err
    assert lrnb("new", "kk", "--script", "Cyrillic", "--tasks", "topic", "--from-hub") == 2


def test_from_the_hub(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    assert lrnb("new", "kk", "--script", "Cyrillic", "--from-hub") == 0
    assert set(tree(checkout / "data/kk")) == {"README.md"}
    study = parameters.load_study(checkout / "params/kk.yaml", "smol")
    assert (study.corpus_source, study.tasks) == ("hub", ["topic", "belebele"])
    assert lrnb("check", "params/kk.yaml") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "HuggingFaceFW/fineweb-2 Hub:" in shown and "Davlan/sib200, kaz_Cyrl" in shown
    assert lrnb("new", "ug", "--script", "Arabic", "--from-hub") == 2  # ships already
    (checkout / "params/ug.yaml").unlink()
    assert lrnb("new", "ug", "--script", "Arabic", "--from-hub") == 0  # Belebele has no Uyghur
    assert parameters.load_study(checkout / "params/ug.yaml", "smol").tasks == ["topic"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("kk", "", "Cyrilic"), "did you mean 'Cyrillic'"),
        (("kz", "Kazakh", "Cyrillic"), "'kz' is not the code of Kazakh; did you mean 'kk'"),
        (("zz", "", "Latin"), "'zz' is no language that CLDR has a name for"),
        (("zz", "Kazak", "Latin"), "no language .*did you mean 'Kazakh'"),
        (("xyz", "", "Latin"), "Give its code of ISO 639-3 .* and --name"),
        (("en", "", "Latin"), "English is in every study"),
        (("kk", "Kazakh\nruns: x", "Cyrillic"), "holds a line's end"),
        (("KK", "", "Cyrillic"), "lang: a code of ISO 639, two or three small letters"),
        (("qaa", "", "Georgian"), "synthetic micro-world"),
        (("kazakh", "", "Cyrillic"), "got 'kazakh'.; Kazakh is 'kk'"),
        (("kk", "", ""), "--script is missing"),
        (("bn", "", "Bengali"), "params/bn.yaml: is there already"),
    ],
)
def test_what_is_refused(checkout: Path, given: tuple[str, str, str], message: str) -> None:
    before = tree(checkout)
    with pytest.raises(UserError, match=message):
        new_language.new_language(*given, checkout / "data")
    assert tree(checkout) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("kk", "", "Arabic"), "SIB-200 has no 'kk' in the script Arabic"),
        (("ps", "", "Arabic"), "fineweb-2 has no 'ps' in the script Arabic .*code of three letters"),
    ],
)
def test_what_the_hub_does_not_have_is_refused(given: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        new_language.new_language(*given, Path("data"), from_hub=True)


def test_nothing_half_is_left(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared/eval").mkdir(parents=True)
    before = tree(tmp_path)

    def full(path: Path, text: str) -> None:
        if "math" in path.parts:
            raise OSError(28, "No space left on device")
        write_text(path, text)

    monkeypatch.setattr(new_language, "write_text", full)
    for root in (checkout / "data/kk", tmp_path / "shared"):
        made = new_language.new_language("kk", "", "Cyrillic", root)
        with pytest.raises(OSError, match="No space"):
            new_language.write_language(made)
        assert tree(tmp_path) == before


def khmer_study(root: Path, model: Path) -> list[str]:
    """Text and items in a script without spaces; more than half of it is no token of the base."""
    sentence = "ភាសាខ្មែរជាភាសាផ្លូវការរបស់កម្ពុជា"
    write_text(
        root / "corpus/km.txt",
        "".join(f"{sentence} {n} {sentence[n:]}\n" for n in range(30)) + "an English line that came along\n",
    )
    write_text(root / "corpus/en.txt", "".join(f"the river sees the red house {n}\n" for n in range(90)))
    asked = "តើអ្នកចង់ធ្វើដំណើរទៅណា"
    rows = "".join(json.dumps({"text": f"{asked} {n}", "label": "travel"}) + "\n" for n in range(12))
    for code in ("km", "en"):
        for split in ("dev", "test"):
            write_text(root / "eval/topic" / code / f"{split}.jsonl", rows)
    write_text(root / "sft/topic.tsv", "text\tcategory\n" + "the red house\ttravel\n" * 8)
    spec = bpe_spec()
    save_bpe(model, spec, base.scratch_model(vocab_size=len(spec["model"]["vocab"]), width=32, layers=1))
    sizes = (
        "ct_budgets=[1024]",
        "sft_mix={topic: 8}",
        f"base_source={model}",
        "base_prune=false",
        "heldout_bytes=100",
        "dedup_threshold=1",
    )
    return [part for size in sizes for part in ("--set", size)]


def test_check_counts_and_says_what_is_missing(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert lrnb("new", "km", "--script", "Khmer", "--data-root", tmp_path / "data") == 0
    shutil.rmtree(tmp_path / "data")
    sizes = khmer_study(tmp_path / "data", tmp_path / "model")
    capsys.readouterr()
    assert lrnb("check", "params/km.yaml", *sizes) == 0
    shown = " ".join((told := capsys.readouterr()).out.split())
    assert "file corpus/km.txt corpus/en.txt documents 31 90 characters" in shown
    assert re.search(r"tokens/word \d+\.\d (?!\d)", shown)  # of English alone
    assert "syllable" not in shown and "nan" not in shown
    assert "topic text_classification 12 12" in shown
    assert re.search(r"note: km: 9\d% of tokens are parts of characters", shown)
    assert "note: km: 3.2% of the documents are in another script" in shown
    assert "note: topic: 12 test items" in shown
    assert "math nothing put rows into eval/math/km/" in shown
    assert "belebele (Hub)" in shown
    assert "Nothing that stops a run was found" in shown
    assert told.err.startswith("reading text and rows, counting tokens ...\n")
    assert lrnb("check", "params/km.yaml", *sizes, "--set", "sft_mix={math: 9}") == 2
    assert "no file" in capsys.readouterr().out


def own_task(root: Path) -> str:
    """The task file of the page, with items in Khmer and English; the first YAML there."""
    page = (parameters.ROOT / "docs/new_language.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    write_text(root / "my_topic.yaml", blocks[0])
    for code, word in (("km", "អង្ករនេះ"), ("en", "this rice")):
        for split, n in (("dev", 10), ("test", 11 + (code == "en"))):
            rows = [json.dumps({"text": f"{word} {i}", "label": "food"}) for i in range(n)]
            write_text(root / "eval/my_topic" / code / f"{split}.jsonl", "\n".join(rows) + "\n")
    write_text(root / "eval/my_topic/en/train.jsonl", '{"text": "a cow", "label": "animals"}\n' * 8)
    return blocks[1].replace("data/ky/my_topic.yaml", str(root / "my_topic.yaml"))


def test_a_task_of_ones_own_as_the_page_has_it(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sizes = khmer_study(tmp_path / "data", tmp_path / "model")
    sizes += ["--set", f"sft_mix={{{tmp_path / 'data/my_topic.yaml'}: 8}}"]
    params = f"lang: km\nscript: Khmer\ndata_root: {tmp_path / 'data'}\n" + own_task(tmp_path / "data")
    write_text(checkout / "params/km.yaml", params)
    assert lrnb("check", "params/km.yaml", *sizes) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "my_topictext_classification1110-eval/my_topic/km/" in shown
    assert "my_topic_entext_classification12108eval/my_topic/en/" in shown
    assert "my_topic88eval/my_topic/en/" in shown
    assert lrnb("run", "params/km.yaml", *sizes, "--dry-run") == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "test tasks: my_topic (km), my_topic (en)" in shown and "8 my_topic (English rows" in shown
    assert lrnb("check", "params/km.yaml", *sizes, "--set", "dev_tasks=[my_topic]") == 2
    assert "name it by that path in every parameter" in "".join(capsys.readouterr())
    (tmp_path / "data/eval/my_topic/km/dev.jsonl").unlink()
    assert lrnb("check", "params/km.yaml", *sizes, "--set", "dev_tasks=[]") == 2
    assert "such as eval/my_topic/km/dev.jsonl" in "".join(capsys.readouterr())


def test_blank_lines_between_documents_of_several_lines_are_told(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lrnb("new", "km", "--script", "Khmer", "--data-root", tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    sizes, text = khmer_study(tmp_path / "data", tmp_path / "model"), tmp_path / "data/corpus/en.txt"
    lines = text.read_text().splitlines()
    text.write_text("\n\n".join("\n".join(lines[n : n + 3]) for n in range(0, 90, 3)))
    assert lrnb("check", "params/km.yaml", *sizes) == 0
    told = "note: en: corpus/en.txt: blank lines part 90 lines into 30 blocks"
    assert told in capsys.readouterr().out
    text.write_text("\n\n".join(lines))  # a document a line all the same
    assert lrnb("check", "params/km.yaml", *sizes) == 0
    assert "blank lines" not in capsys.readouterr().out


def test_check_of_the_micro_world_looks_at_nothing(capsys: pytest.CaptureFixture) -> None:
    assert lrnb("check", "params/qaa.yaml", "--preset", "nano") == 0
    assert "generates its text and tasks" in capsys.readouterr().out
