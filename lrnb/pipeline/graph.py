"""Several studies as one graph: what they share is in it once, all else once for every language and seed.

`lrnb run` of several languages makes it, and of several seeds on a cluster; the Snakefile turns it into
rules. Of one study it is its steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrnb.errors import UserError
from lrnb.pipeline import freshness
from lrnb.pipeline.steps import Step, plan, step_params, urgency
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths


@dataclass(frozen=True)
class Node:
    """A step in a graph of studies.

    `name`: see `node_name`; what is shared belongs to the first study. `place`: of its study in the command.
    """

    name: str
    place: int
    study: Study
    step: Step
    needs: tuple[str, ...]  # names of other nodes

    @property
    def cost(self) -> float:
        return self.step.cost

    @property
    def classes(self) -> tuple[str, str, str]:
        """The names under `set-resources` of a profile that count for it, the last one most."""
        return ("gpu" if self.step.gpu else "cpu", self.step.name, self.name)

    @property
    def status(self) -> Path:
        """Where the step says how it stands, without the ending; see `notebooks.Status`."""
        return RunPaths(self.study).lang / ".status" / self.step.name

    @property
    def log(self) -> Path:
        return RunPaths(self.study).lang / "logs" / f"{self.step.name}.log"


def graph(studies: Sequence[Study]) -> dict[str, Node]:
    """The steps of all studies by name, each after those it needs.

    UserError where studies ask for different things of a step that they share, and where languages are to
    be merged that are not among them.
    """
    _refuse_absent(studies)
    nodes: dict[str, Node] = {}
    for place, study in enumerate(studies):
        steps = plan(study)
        names = {name: node_name(step.home, name, studies) for name, step in steps.items()}
        for step in steps.values():
            homes = [(RunPaths(study).root / lang, need) for lang, need, _ in step.beside]
            beside = [node_name(home, need, studies) for home, need in homes]
            needs = (*(names[need] for need in step.needs), *beside)
            node = Node(names[step.name], place, study, step, needs)
            _refuse_other(nodes.setdefault(node.name, node), node)
    return dict(
        sorted(nodes.items(), key=lambda item: bool(item[1].step.beside))
    )  # those that wait for others


def _refuse_absent(studies: Sequence[Study]) -> None:
    there = [study.lang for study in studies]
    asked = [("merge_languages", langs) for langs in studies[0].merge_languages]
    for name, langs in [*asked, ("set_languages", studies[0].set_languages)]:
        if missing := [lang for lang in langs if lang not in there]:
            raise UserError(
                f"{name}: {', '.join(missing)} of {langs} is none of the languages of this command, "
                f"{', '.join(there)}; name its file too"
            )


def node_name(home: Path, step: str, studies: Sequence[Study]) -> str:
    """The name of a step of the folder `home` in the graph of `studies`.

    Of one: "ct". Of several languages: "bn/ct", and "shared/base". Of several seeds: "paper-seed1/bn/ct".
    """
    seeds = len({study.seed for study in studies})
    parts = home.parts[-2:] if seeds > 1 else home.parts[-1:] if len(studies) > 1 else ()
    return "/".join((*parts, step))


def _refuse_other(first: Node, node: Node) -> None:
    """What is shared must be the same, whichever language makes it."""
    if first is node:
        return
    one, other = (step_params(n.step, n.study) for n in (first, node))
    if differ := sorted(key for key in one | other if one.get(key) != other.get(key)):
        told = ", ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in differ)
        raise UserError(
            f"{first.step.name} is shared by {first.study.lang} and {node.study.lang}, which ask for "
            f"different things ({told}). Give both the same, or run one of them alone with --set runs=OTHER"
        )


def priorities(nodes: Mapping[str, Node]) -> dict[str, int]:
    """What is started first: languages in the order given, so that the first is done first; in each
    language the longest chain of steps that waits.
    """
    waiting = urgency(nodes)
    most, last = max(waiting.values()) + 1, max(node.place for node in nodes.values())
    return {name: waiting[name] + (last - node.place) * most for name, node in nodes.items()}


def outdated_nodes(
    studies: Sequence[Study], nodes: Mapping[str, Node], keep_code: bool = False
) -> dict[str, str]:
    """The nodes that are not up to date, and all that need them, in order; each with why."""
    found: dict[str, str] = {}
    for study in studies:
        steps = plan(study)
        for name, why in freshness.outdated(study, steps, keep_code).items():
            found.setdefault(node_name(steps[name].home, name, studies), why)
    for name, node in nodes.items():  # of other languages
        if name not in found and (need := next((need for need in node.needs if need in found), "")):
            found[name] = f"after {need}"
    return {name: found[name] for name in nodes if name in found}


def folders_from(studies: Sequence[Study]) -> list[Path]:
    """The run folder of every study as seen from the first's: "." and "../<lang>"."""
    places = [RunPaths(study).lang.resolve() for study in studies]
    return [Path(os.path.relpath(place, places[0])) for place in places]


def by_study(nodes: Iterable[Node]) -> dict[int, list[Step]]:
    """The steps of every study by its place; a shared one under the first's."""
    found: dict[int, list[Step]] = {}
    for node in nodes:
        found.setdefault(node.place, []).append(node.step)
    return found
