"""The exercises of notebooks/lesson: questions, answers, hints; numbers come from the package's own formulas.

`python -m lrnb.widgets.lesson > docs/teaching-solutions.md` writes the solutions apart, for a teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lrnb import statistics
from lrnb.merging import by_hand
from lrnb.merging.methods.average import average
from lrnb.merging.methods.task_arithmetic import task_arithmetic
from lrnb.merging.methods.ties import ties
from lrnb.merging.methods.ties_sv import ties_sv


@dataclass(frozen=True)
class Exercise:
    """A question with the right one of its `options`, or with a number; why that is right, and hints.

    answer: the text of an option, or a function that computes the number; tolerance: of a number.
    """

    question: str
    answer: str | Callable[[], float]
    why: str
    hints: tuple[str, ...]
    options: tuple[str, ...] = ()
    tolerance: float = 0.0

    def is_right(self, given: str | float) -> bool:
        if callable(self.answer):
            return abs(float(given) - self.answer()) <= self.tolerance + 1e-9
        return given == self.answer

    def told(self) -> str:
        """The answer as text."""
        return f"{round(self.answer(), 3):g}" if callable(self.answer) else self.answer


PARENTS = {"ct": by_hand.BASE + by_hand.TAU_CT, "sft": by_hand.BASE + by_hand.TAU_SFT}
ENTRIES = np.array([0.4, -0.9, 0.1, 0.6, -0.2])  # of the exercise on trimming


def entry(merged: np.ndarray, name: str) -> float:
    """The merged weight that is called `name`, p1 to p6."""
    return float(merged[by_hand.NAMES.index(name)])


def smallest_kept() -> float:
    """The smallest magnitude that trimming ENTRIES to density 0.4 leaves."""
    trimmed = ties(np.zeros(5), {"one": ENTRIES}, density=0.4)
    return float(np.abs(trimmed[trimmed != 0]).min())


def merged_p1() -> float:
    """TIES' merged entry at p1, were CT's entry 0.40 there."""
    tau = by_hand.TAU_CT.copy()
    tau[0] = 0.4
    return float(ties(np.zeros(6), {"ct": tau, "sft": by_hand.TAU_SFT}, density=5 / 6)[0])


def won_back_of_five() -> float:
    """How many of five defeats a slack of 0.5 wins back."""
    winner, loser = np.array([0.6, 0.7, 0.8, 0.9, 1.0]), np.full(5, -0.5)
    return float((ties_sv(np.zeros(5), ct=winner, sft=loser, density=1.0, slack=0.5) < 0).sum())


def equal_lam() -> float:
    """The λ with which task arithmetic is the average with α = 0.5."""
    half = average(by_hand.BASE, PARENTS, alpha=0.5) - by_hand.BASE
    whole = task_arithmetic(by_hand.BASE, PARENTS, lam=1.0) - by_hand.BASE
    return float(half @ whole / (whole @ whole))


LOW_RESOURCE = {
    "bytes_of_a_letter": Exercise(
        "UTF-8 writes an English letter with one byte. With how many does it write the Georgian letter ა?",
        lambda: float(len("ა".encode())),
        "Three bytes a letter: the same number of bytes holds a third of the letters.",
        ("Try len('ა'.encode()) in a cell.",),
    ),
    "bits_of_no_knowledge": Exercise(
        "A model that knows nothing gives each of the 256 values of a byte the same probability. How many "
        "bits per byte does it need?",
        lambda: math.log2(256),
        "log2(256) = 8 bits. What a model needs less than that, it has learnt.",
        ("An event of probability p costs log2(1 / p) bits.", "1 / p is 256 here: which power of 2 is that?"),
    ),
    "bits_of_a_text": Exercise(
        "A text of 300 bytes is cut into 100 tokens. The loss of a model on it is 2.08 nats a token. How "
        "many bits per byte is that, to one decimal?",
        lambda: 2.08 * 100 / 300 / math.log(2),
        "2.08 nats are 3 bits a token, so 300 bits over 300 bytes. Bits per byte do not depend on how a "
        "tokenizer cuts; loss a token does.",
        (
            "A nat is 1 / ln 2 = 1.44 bits: how many bits is a token?",
            "Bits of all 100 tokens, over 300 bytes.",
        ),
        tolerance=0.05,
    ),
    "after_english_tasks": Exercise(
        "Quick check: a model was trained on text in X (CT), then fine-tuned on English tasks (SFT). What "
        "does it do in X?",
        "It forgets a part: it predicts text in X worse than CT, even if it does the tasks in X better.",
        "The fine-tuning moves the same weights that CT has moved, and nothing in its data holds X in place. "
        "It is called forgetting. What it learns of the tasks can still help in X.",
        (
            "No text in X is in the fine-tuning, but does that leave the weights alone that X is stored in?",
            "Compare CT and CT-then-SFT in the figure of forgetting, in X and in English.",
        ),
        (
            "It stays as it was: nothing in X is trained on any more.",
            "It forgets a part: it predicts text in X worse than CT, even if it does the tasks in X better.",
            "It gets better at everything in X, since tasks are the same in every language.",
            "It loses X altogether and answers by chance.",
        ),
    ),
}
TASK_VECTORS = {
    "task_vector": Exercise(
        "Quick check: how is the task vector of SFT-en computed?",
        "The weights of SFT-en minus the weights of the base that it was trained from, entry by entry.",
        "It is all that training changed. Added to the base it gives the model back.",
        (
            "Which two models must be equal for the task vector to be zero everywhere?",
            "A model that was not trained further has a task vector of zeros.",
        ),
        (
            "The weights of SFT-en minus the weights of CT, entry by entry.",
            "The weights of SFT-en minus the weights of the base that it was trained from, entry by entry.",
            "The gradient of the loss on the tasks, at the weights of the base.",
            "The mean of the weights of SFT-en and of the base.",
        ),
    ),
    "average_p2": Exercise(
        "Six numbers, weight p2: the base has 1.00, CT 0.75, SFT 1.05. What does the average with α = 0.6 "
        "have there?",
        lambda: entry(average(by_hand.BASE, PARENTS, alpha=0.6), "p2"),
        "0.6 · 0.75 + 0.4 · 1.05. The two moved in opposite directions, and a part of it cancels.",
        ("α is CT's share: α · CT + (1 − α) · SFT.", "SFT's share is 0.4."),
        tolerance=0.005,
    ),
    "added_p3": Exercise(
        "Six numbers, weight p3: the base has −1.00, τ CT is 0.30, τ SFT is 0.40. What does task arithmetic "
        "with λ = 1 have there?",
        lambda: entry(task_arithmetic(by_hand.BASE, PARENTS, lam=1.0), "p3"),
        "−1.00 + 0.30 + 0.40. Where both agree, task vectors add up; the average moves by 0.35 only.",
        ("Task arithmetic is base + λ · (τ CT + τ SFT).", "Mind the sign of the base."),
        tolerance=0.005,
    ),
    "equal_lam": Exercise(
        "With which λ is task arithmetic the same merge as the average with α = 0.5?",
        equal_lam,
        "½ (base + τ CT) + ½ (base + τ SFT) = base + ½ (τ CT + τ SFT).",
        ("Write CT as base + τ CT, SFT as base + τ SFT, and take the mean.",),
        tolerance=0.005,
    ),
}
TIES_AND_SLACK = {
    "smallest_kept": Exercise(
        "A task vector has five entries: 0.4, −0.9, 0.1, 0.6, −0.2. Density 0.4 keeps two of five. What is "
        "the smallest magnitude that stays?",
        smallest_kept,
        "The two largest magnitudes are 0.9 and 0.6. The sign plays no part in trimming.",
        ("Order the entries by magnitude, that is without their signs.",),
        tolerance=0.005,
    ),
    "sign_conflict": Exercise(
        "Quick check: at one weight CT's entry is +0.3 and SFT's is −0.2, both kept by trimming. What "
        "decides what the merged entry is?",
        "The sign of their sum: the larger entry wins, and only the winner is averaged.",
        "The sum is +0.1, so + wins. SFT's entry is discarded: the merged entry is 0.3, not 0.05.",
        (
            "Two parents, one entry for + and one for −: counting heads decides nothing.",
            "TIES takes the sign of the sum of the two. What becomes of the entry of the other sign?",
        ),
        (
            "The mean of the two: it is 0.05.",
            "The sign of their sum: the larger entry wins, and only the winner is averaged.",
            "The sign that more parents have; a draw gives zero.",
            "CT always wins, since it was trained on more text.",
        ),
    ),
    "merged_p1": Exercise(
        "Six numbers, weight p1, but suppose that τ CT were 0.40 there; τ SFT is −0.45, both are kept. "
        "What would the entry of the merged task vector of TIES be (λ = 1)?",
        merged_p1,
        "− wins, and the mean of the winners is SFT's entry alone. CT's is discarded.",
        ("Which sign has the sum 0.40 − 0.45?", "Only entries of that sign are in the mean."),
        tolerance=0.005,
    ),
    "won_back": Exercise(
        "SFT has lost five entries. How many of them does slack ρ = 0.5 win back?",
        won_back_of_five,
        "round(0.5 · 5) = round(2.5), and a half goes to the even neighbour: the two narrowest defeats.",
        ("The number is round(ρ · number of defeats).", "What does Python say to round(2.5)?"),
    ),
}
DOES_IT_HELP = {
    "read_an_interval": Exercise(
        "A merge is 1.2 points below CT-then-SFT, with a 95% interval from −4.0 to +1.6. What does that say?",
        "It cannot be told which of the two is better, nor that they are equal.",
        "Zero lies within, so no difference is shown. −4 lies within too, so equality is not shown either.",
        ("Which true differences would go with these data? All in the interval, and zero is one of them.",),
        (
            "The merge is worse: the difference is below zero.",
            "The two are equally good: zero lies in the interval.",
            "It cannot be told which of the two is better, nor that they are equal.",
            "The merge is better with a probability of 1.6 / 5.6.",
        ),
    ),
    "detectable": Exercise(
        "Two models answer the same 1,600 items; on 10% of them only one of the two is right. How large must "
        "the true difference be, in points, for a paired test to find it four times out of five?",
        lambda: 100 * statistics.minimum_detectable_difference(1600, discordant=0.1),
        "About 2.2 points. The paper's gain of 0.52 would need about twenty times as many items.",
        (
            "A standard error of the difference is about √(share that differs / items).",
            "Four times out of five takes 2.8 standard errors: 2.8 · √(0.1 / 1600), in points.",
        ),
        tolerance=0.15,
    ),
    "tuned_baseline": Exercise(
        "A merge is the best of twelve candidates on dev items; CT-then-SFT is trained once with default "
        "settings. Both are then compared on test items. For whom is this unfair, and why?",
        "For CT-then-SFT: it could be better with settings of its own, and nobody looked.",
        "As many candidates for every arm, chosen on dev items, reported on test items.",
        (
            "Test items are new to both. So is it the test that is unfair, or what came before it?",
            "Which of the two had twelve chances to be well set?",
        ),
        (
            "For the merge: the best of twelve on dev is bound to look worse on test.",
            "For nobody: both are compared on the same test items.",
            "For CT-then-SFT: it could be better with settings of its own, and nobody looked.",
        ),
    ),
    "standard_error": Exercise(
        "The lead of a merge differs from seed to seed with a standard deviation of 3 points. What is the "
        "standard error of the mean of 16 seeds, in points?",
        lambda: 3 / math.sqrt(16),
        "3 / √16. Four times as many seeds halve it.",
        ("The standard error of a mean is the standard deviation over √n.",),
        tolerance=0.005,
    ),
}
LESSON: dict[str, dict[str, Exercise]] = {  # by notebook, in the order of its cells
    "1_low_resource_and_forgetting": LOW_RESOURCE,
    "2_task_vectors": TASK_VECTORS,
    "3_ties_and_slack": TIES_AND_SLACK,
    "4_does_it_help": DOES_IT_HELP,
}
HEAD = """# Solutions of the lesson

The answers to the exercises of [notebooks/lesson](../notebooks/lesson), for who teaches it. Written by
`python -m lrnb.widgets.lesson`; numbers are computed by the formulas of the package."""


def solutions() -> str:
    """All exercises with their answers, as Markdown."""
    parts = [HEAD]
    for notebook, exercises in LESSON.items():
        parts.append(f"## {notebook}")
        parts += [_solved(number, one) for number, one in enumerate(exercises.values(), 1)]
    return "\n\n".join(parts) + "\n"


def _solved(number: int, one: Exercise) -> str:
    within = f" (± {one.tolerance:g})" if one.tolerance else ""
    hints = "\n".join(f"   - Hint: {hint}" for hint in one.hints)
    return f"{number}. {one.question}\n\n   **{one.told()}**{within}. {one.why}\n\n{hints}".replace(
        "**. ", "**: "
    )


if __name__ == "__main__":
    print(solutions(), end="")
