"""The field's words: what the library used to call its own way stays retired, in code and in prose."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Names in code, each with what stands for it now.
IDENTIFIERS = {
    "Around": "made_of", "Averages": "AveragePooling", "Door": "CountingDenoiser", "Legs": "Segments",
    "Limited": "GuidanceInterval", "Line": "Stage", "Lines": "StepPlan", "Nodes": "GridSteps", "Past": "History",
    "Point": "NoiseLevel", "PseudoInverse": "PiGDM", "Ramp": "LowerOrderStart", "Reading": "ModelOutput",
    "Start": "StartingProcedure", "Substeps": "GradedStart", "Walk": "Stepping", "_Numbers": "_Coefficients",
    "blind": "from_pure_noise", "breaks": "discontinuities", "clock": "the integration variable", "crumb": "",
    "decay": "propagator", "door": "the call counter", "guest": "a third-party back end", "held": "h_phi_1",
    "judge": "accept_or_reject", "law": "distribution", "laws": "distributions", "leg": "segment", "legs": "segments",
    "looks_back": "history_length", "promise": "step_factor", "pull": "integral_weight", "reading": "output",
    "readings": "outputs", "reads_again": "pece", "renoise": "add_noise", "share": "fraction", "shares": "fractions",
    "spread": "noise_std", "told": "given", "walk": "stepping", "worth": "error_weight", "young": "first_steps",
}  # fmt: skip
#: Phrases in comments, docstrings, messages and pages, with what is said now; patterns without regard to case.
PROSE = {
    r"\breadings?\b": "evaluation, model output", r"\bthe guests?\b|\bguests\b": "third-party back end",
    r"\bhouse rules?\b": "deviations from its defaults", r"\bthe (shelf|house|room)\b": "the solvers, package, module",
    r"\bbehind a door\b|\bthe door\b": "the call counter", r"\b(is|are|was|were|be|been|being) told\b": "is given",
    r"\btold\b": "is given, is conditioned on",
    r"\bin law\b|\b(the|a|its|their|own|exact|noised|two|that|same|wrong) laws?\b": "distribution",
    r"\bclock\b": "integration variable", r"\bcrumbs?\b": "tiny last step", r"\blegs?\b": "segment",
    r"\bof (one|your)'?s? own\b": "user-defined, custom",
    r"(?<!\bthere )\b(is|are) no (?!(longer|more|less|better|other|way|such|good|use|need)\b)\w+": "is not a",
    r"\bramps?\b": "lower-order start", r"\bbreaks\b": "discontinuities",
}  # fmt: skip
#: A docstring that asks.
QUESTION = re.compile(
    r'"""(Is|Does|Do|Are|Has|Have|Was|Can|Will) [^"]*\?"""|#: (Is|Does|Do|Are|Has|Have|Can) .*\?$', re.M
)
EXEMPT = {"CHANGELOG.md", "before-and-after.md", "test_words.py"}


def pages():
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests").glob("*.md")]
    for folder in ("scorediff", "tests", "examples", "recipes", "benchmarks"):
        found += (ROOT / folder).rglob("*.py")
    return [path for path in found if path.name not in EXEMPT]


def retired(text, is_code):
    """What a text says in retired words: `(line, word, what is said now)`."""
    names, prose = _parts(text) if is_code else ([], list(enumerate(text.splitlines(), 1)))
    found = [(line, name, IDENTIFIERS[name]) for line, name in names if name in IDENTIFIERS]
    for line, words in prose:
        for pattern, now in PROSE.items():
            found += [(line, match[0], now) for match in re.finditer(pattern, words, re.IGNORECASE)]
    if is_code:
        found += [(text[: m.start()].count("\n") + 1, m[0][:40], "Whether ...") for m in QUESTION.finditer(text)]
    return found


def _parts(text):
    """The names in a program, and its comments and strings line by line."""
    names, prose, before = [], [], ("", "")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and before != ("ast", "."):  # `ast.walk` is Python's
            names.append((token.start[0], token.string))
        elif token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            prose += list(enumerate(token.string.splitlines(), token.start[0]))
        before = (before[1], token.string)
    return names, prose


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_said_in_retired_words(path):
    found = retired(path.read_text(encoding="utf-8"), path.suffix == ".py")
    assert not found, "\n".join(f"{path.name}:{line}: {word!r}; now {now!r}" for line, word, now in found)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("reading = problem.denoiser(t, x)", "reading"),
        ("# the reading at the last node", "reading"),
        ('"""Does it choose its own steps?"""', '"""Does it choose its own steps?"""'),
        ('raise ValueError("k is no number")', "is no number"),
    ],
)
def test_a_retired_word_that_is_planted_is_found(text, word):
    assert [found for _, found, _ in retired(text, is_code=True)] == [word]
