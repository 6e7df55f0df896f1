"""How outputs of contest problems are compared: checkers by id, and what statements say of it.

Two options that CodeContests and LiveCodeBench share:

checkers: for problems with several right outputs, by id: the name of a rule of
    `sandbox.comparison`, a rule, or a callable `(output, expected, input) -> bool`. To pickle the
    environment, a callable must be a function of a module. Of a problem that asks for a function,
    output and expected are JSON texts.
comparison: the rule for all problems without a checker: "lines", "whitespace", "floats" (within
    1e-6), `Floats(absolute=1e-9, relative=1e-9)`, ... Or "auto", which does as the statement says:
    it compares tokens, with any white space between them (`whitespace`); within the tolerance that
    the statement grants, if it grants one (`floats`); and without upper and lower case where the
    statement says that any case will do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sandbox import plugins
from sandbox.comparison import Checker, Floats, IgnoreCase, Rule, Whitespace, rule
from vpd_envs.data.files import Row

Checkers = Mapping[str, str | Rule]


class Rules:
    """The rule for each problem, from the options `checkers` and `comparison`."""

    def __init__(self, checkers: Checkers | None, comparison: str | Rule) -> None:
        self.checkers = {id_: rule(checker) for id_, checker in (checkers or {}).items()}
        self._common = None if comparison == "auto" else rule(comparison)
        self.asked: set[str] = set()  # the ids of all problems so far

    def of(self, problem_id: str, statement: str) -> Rule:
        self.asked.add(problem_id)
        return self.checkers.get(problem_id) or self._common or rule_of(statement)

    def check_ids(self) -> None:
        """Raises ValueError for a checker of a problem that there was not."""
        for id_ in self.checkers:
            if id_ not in self.asked:
                close = [each for each in self.asked if each.startswith(id_)]
                raise ValueError(plugins.unknown("problem in checkers:", id_, close or self.asked))


def rule_name(compare: Rule) -> str:
    """What tells a rule from others, equal in every process."""
    return compare.name if isinstance(compare, Checker) else repr(compare)


# Several right answers ----------------------------------------------------------------------------

SHOW = r"(?:print|output|display|write|report|return|find|construct|restore|reconstruct)"
SHOWN = r"(?:printed|output|displayed|written|reported|returned|listed|given out|accepted)"
RIGHT = r"(?:accepted|acceptable|allowed|considered|correct|counted|fine|okay|ok|right|valid)"
CHOOSE = r"(?:choose|pick|select|take|use)"
ANSWER = r"(?:answers?|solutions?|outputs?|results?)"
ANSWERS = (
    rf"(?:{ANSWER}|ways?|options?|variants?|sequences?|permutations?|arrays?|strings?|sets?|subsets?"
    r"|orders?|orderings?|arrangements?|configurations?|paths?|trees?|graphs?|representations?"
    r"|partitions?|pairs?|triples?|matrices|assignments?|colorings?|schedules?|constructions?)"
)
MAY = r"(?:can|may|could|might|should|will|would|is|are)"
WILL_DO = (
    rf"\s+{MAY}\s+(?:also\s+)?(?:be\s+)?(?:{SHOWN}|{RIGHT})\b"
    r"(?!\s+(?:if|in|on|by|at|from|as|different|distinct|equal|the)\b)"
)
MANY = (
    r"(?:multiple|several|many|various|different|more than one|two or more"
    r"|not (?:necessarily )?unique|ambiguous)"
)
VALID = r"(?:valid|correct|possible|suitable|optimal|appropriate|such|acceptable|feasible)"
ANY = r"(?:any|an arbitrary)"
THEM = r"(?:them|those|these|which)"
ANY_ORDER = r"in\s+(?:any|an\s+arbitrary|arbitrary|whatever|whichever)\s+order"
NO_MATTER = (
    r"(?:(?:does\s+not|doesn't|do\s+not|don't|need\s+not)\s+matter|(?:is|are)\s+(?:not\s+important"
    r"|unimportant|irrelevant|insignificant|arbitrary)|(?:can|may)\s+be\s+(?:any|arbitrary))"
)
UNIQUE = r"(?:smallest|largest|least|greatest|minim|maxim|first|last|lexicograph|earliest|latest)"
CLAUSE = r"(?:if|whether|when|where|that|than|without|not|number|count|each)"  # begins another
# Each within a sentence, but for a condition and the instruction that follows it.
SEVERAL = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # If there are several answers, print any of them. / ... , you may output an arbitrary one.
        rf"\b{MANY}\b[^.]{{0,120}}(?:\.[^.]{{0,40}})?\b{SHOW}\b(?:(?!\b(?:{CLAUSE}\b|{UNIQUE}))[^.])"
        rf"{{0,30}}\b(?:any(?!\s+(?:letter|character|case|order))|an arbitrary|arbitrary one|"
        rf"whichever|one of {THEM})\b",
        # If there are several answers, you may choose any of them. Not: If there are several such
        # elements, he may choose any of them.
        rf"\b{MANY}\s+(?:[\w-]+\s+){{0,3}}{ANSWER}\b[^.]{{0,80}}(?:\.[^.]{{0,40}})?"
        rf"\b{CHOOSE}\s+(?:{ANY}|one)\b",
        # Print any of them. / output any valid answer. / You can print any.
        rf"(?<!not )(?<!n't )\b{SHOW}\s+any(?:\s+(?:one|single))?(?:\s+of\s+(?:{THEM}|the|such)\b"
        rf"|\s+(?:{VALID}\s+)*{ANSWERS}\b|\s*[.,;)]|\s*$)",
        rf"(?<!not )(?<!n't )\b{SHOW}\s+any\s+{VALID}\b",
        rf"\b{SHOW}\s+(?:an arbitrary|one of the (?:possible|valid|suitable|correct)|any possible"
        rf"|one (?:such|possible|valid|suitable))\b",
        r"\b(?:print|output|construct)\s+an?\s+(?:possible|valid|suitable|feasible)\b",
        # Find any perfect coloring.
        rf"(?:^|[.!?:]\s+|\n)(?:Otherwise,?\s+)?{SHOW}\s+any\s+(?!{VALID}|(?:letter|character|case"
        r"|order|extra|additional|other|number|amount)s?\b)\w+",
        # Any of them is accepted. / ..., any can be printed. / All correct answers are accepted.
        rf"(?<!if )(?<!whether )\bany(?:\s+one)?\s+of\s+(?:{THEM}|the\s+(?:{VALID}\s+)*{ANSWERS})"
        rf"{WILL_DO}",
        rf",\s*any(?:\s+one)?{WILL_DO}",
        rf"\b(?:any|all|each|every)\s+(?:{VALID}\s+)*{ANSWER}{WILL_DO}",
        rf"\b(?:checker|judge|jury|grader|system)\s+(?:will\s+)?accepts?\s+{ANY}\b",
        r"\b(?:special|custom)\s+(?:judge|checker)\b",
        # There may be multiple accepted outputs. Not: ... ; print the smallest.
        rf"\b(?:may|can|could|might)\s+(?:be|have|exist)\s+{MANY}\s+(?:(?:{VALID}|accepted|right)\s+)*"
        rf"{ANSWER}\b(?!\s+of the\b)(?!.{{0,120}}{UNIQUE})",
        # You can print the edges in any order. / The edges can be printed in any order.
        r"\b(?:print|output|display|write|report|return|list(?!s? of))\b"
        r"(?:(?!\b(?:if|whether|when|such that|can|could|number|count)\b)[^.]){0,100}"
        rf"\b{ANY_ORDER}",
        rf"\b{MAY}\s+(?:also\s+)?be\s+(?:also\s+)?{SHOWN}\b(?:(?!\binput\b)[^.]){{0,60}}\b{ANY_ORDER}",
        # The order in which you print the edges does not matter. / The order of the output is ...
        rf"\border\b[^.]{{0,60}}\b(?:you\s+(?:print|output)|(?:is|are)\s+(?:printed|output)|(?:printing"
        rf"|output|answer)s?\b)[^.]{{0,60}}\b{NO_MATTER}",
        # Your answer will be considered correct if your tree ... (not: if its error is at most ...)
        rf"\b{ANSWER}\s+(?:will be|is|are)\s+(?:considered|accepted as|treated as)\s+(?:to be\s+)?"
        r"(?:correct|valid|right)\s+if\b(?![^.]*(?:error|inaccuracy|differ|precision|10))",
    )
]
# What these say is about the output only where the output is described.
OUTPUT_SECTION = re.compile(
    r"^[^\w\n]*output(?: (?:format|specification))?[^\w\n]*$(.*?)"
    r"(?=^[^\w\n]*(?:input|examples?|samples?|notes?|explanation|constraints|scoring)\b|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
SEVERAL_IN_OUTPUT = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # (1) in any order. / The order of the edges does not matter.
        rf"\b{ANY_ORDER}\b",
        rf"\border\b[^.]{{0,80}}\b{NO_MATTER}",
        # If there are several such strings, you may choose any of them.
        rf"\b{MANY}\b[^.]{{0,120}}\b{CHOOSE}\s+(?:{ANY}|one\s+of)\b",
    )
]


def several_answers(row: Row, statement: str) -> str:
    """Why several outputs seem to be right: "" if nothing says so."""
    if row.get("multiple_answers") is True and tolerance_of(statement) is None:
        return "the row says so"
    output = "\n".join(OUTPUT_SECTION.findall(statement))
    for patterns, text in ((SEVERAL, statement), (SEVERAL_IN_OUTPUT, output)):
        for pattern in patterns:
            found = pattern.search(text)
            if found:
                return f"the statement says {' '.join(found[0].split())!r}"
    return ""


# Rules that a statement asks for ------------------------------------------------------------------

TOLERANCE = re.compile(
    r"\b(?:(?P<kinds>(?:absolute|relative)(?:\s*(?:or|and|/|,)\s*(?:absolute|relative))?)\s+)?"
    r"(?:errors?|inaccuracy|imprecision|precision|accuracy|differs?|deviates?)\b"
    r"(?P<rest>[^.]{0,160}(?:\.\d[^.]*)?)",
    re.IGNORECASE,
)
TEN_TO_MINUS = re.compile(
    r"10\s*(?:\^|\*\*)?\s*(?:\\?[{(])?\s*[-−–—]\s*(?P<ten>\d{1,2})|\b1e-0?(?P<e>\d{1,2})"
    r"|\b0?\.(?P<zeros>0{1,12})1\b",
    re.IGNORECASE,
)
ANY_CASE = re.compile(
    r"(?:letters?|characters?|answers?|yes|no|print|output|strings?|words?)\b[^.]{0,60}"
    r"\bin\s+(?:any|either|arbitrary)\s+(?:case|register)\b|\bcase[- ]insensitive",
    re.IGNORECASE,
)


def rule_of(statement: str) -> Rule:
    """Tokens, within the tolerance and without the case that the statement does not care for."""
    tolerance = tolerance_of(statement)
    compare = Whitespace() if tolerance is None else tolerance
    return IgnoreCase(compare) if ANY_CASE.search(statement) else compare


def tolerance_of(statement: str) -> Floats | None:
    """The error that the statement allows, if it allows any.

    An "absolute or relative error" of no stated size is one of 1e-6; "differs by at most 1e-4" is
    an absolute one.
    """
    for allowed in TOLERANCE.finditer(statement):
        size = TEN_TO_MINUS.search(allowed["rest"])
        kinds = (allowed["kinds"] or "").lower()
        if size or kinds:
            exponent = int(size["ten"] or size["e"] or len(size["zeros"]) + 1) if size else 6
            relative = 10.0**-exponent if "relative" in kinds else 0.0
            absolute = 0.0 if kinds == "relative" else 10.0**-exponent
            return Floats(absolute, relative)
    return None
