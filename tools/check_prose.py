#!/usr/bin/env python3
"""
Find turns of phrase that this project does not use, and say what to write instead.

``python tools/check_prose.py`` reads the Python and Markdown files of the project. For each phrase it prints the file,
the line, the words and the advice, then the number of phrases. It exits with status 1 if there are any.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# This script and its test are not among them: they contain the phrases.
CHECKED = ("sb3_prefine", "benchmarks", "examples", "tests", "docs", "*.md")
EXCLUDED = ("tests/tools",)

# A regular expression for each phrase, in lower or upper case, and the advice. A space also matches a line break and
# the underscore of a test's name. (?-i:…) heeds the case.
PHRASES = {
    # Docstring fields
    r":param \w+: of": "give the noun too: 'Seed of the batches.'",
    r"(?-i::(param \w+|return): (?!of\b)(a|[a-z]\w+)\b)": "begin with a capital letter and end with a full stop",
    r"(?-i::raises \w+: (?!If\b)[A-Za-z]\w*)": "write ':raises ValueError: If …'",
    # People and processes
    r"somebody|anybody|everybody|nobody|who(m|se)?(so)?ever": "say who: the user, the caller, a process, no method",
    r"(his|her) own": "'its own' or 'their own'",
    # Quantities
    r"there (is|are|was|were) none|of which there": "say what is missing: 'no file', 'without costs'",
    r"so many": "'this number of', 'that many', or the name of the number",
    r"as many(?!( \w+)? as)": "'the same number of', or the number",
    r"for want of": "'because there is no'",
    # Verbs and adverbs
    r"go\son|(goes|going|gone|went) on": "'continue'",
    r"anew": "'again' or 'from scratch'",
    r"once more": "'again'",
    r"ever after": "'from then on'",
    r"without a word": "'silently'",
    r"in words": "'with a message'",
    r"com(e|es|ing) about": "'is made', 'is computed'",
    r"came of": "'the results'",
    r"(gets?|got) no better": "'stops improving'",
    r"that (is|are|was|were) there": "'existing'",
    r"let(s|ting)? go": "'release'",
    # The field's terms
    r"way (back|forward)": "'backward pass', 'forward pass'",
    r"by (the|its|their|a) modes?": "'deterministic actions', 'deterministically'",
    r"by samples": "'stochastic actions', 'stochastically'",
    # Word order
    r"(?-i:(Logged|Measured|Named|Recorded|Kept|Given|Shown|Refused|Returned|Dotted|Wanted) (is|are|was|were))": (
        "begin with the subject: 'Logs …', 'The target was …'"
    ),
}
_PATTERNS = [
    (re.compile(rf"(?<![A-Za-z])(?:{phrase})(?![A-Za-z])".replace(" ", r"[\s#_]+"), re.IGNORECASE), advice)
    for phrase, advice in PHRASES.items()
]


def find_phrases(text: str) -> list[tuple[int, str, str]]:
    """
    Find the phrases in a text.

    :param text: Contents of a file.
    :return: The line (from 1), the words and the advice of each phrase, in the order of the lines.
    """
    return sorted(
        (text.count("\n", 0, match.start()) + 1, " ".join(match.group().split()), advice)
        for pattern, advice in _PATTERNS
        for match in pattern.finditer(text)
    )


def checked_files(root: Path) -> Iterator[Path]:
    """
    Iterate over the files to check.

    :param root: Folder of the project.
    """
    for entry in CHECKED:
        for path in sorted(root.glob(entry)):
            files = [path] if path.is_file() else sorted(path.rglob("*"))
            yield from (
                file
                for file in files
                if file.suffix in (".py", ".md")
                and not any(file.is_relative_to(root / excluded) for excluded in EXCLUDED)
            )


def main(root: Path = ROOT) -> int:
    """
    Print all phrases and their number.

    :param root: Folder of the project.
    :return: The exit status: 1 if there are phrases, otherwise 0.
    """
    n_phrases = 0
    for path in checked_files(root):
        for line, words, advice in find_phrases(path.read_text(encoding="utf-8")):
            print(f'{path.relative_to(root)}:{line}: "{words}": {advice}')
            n_phrases += 1
    print(f"check_prose: {n_phrases} phrases to rewrite")
    return int(n_phrases > 0)


if __name__ == "__main__":
    sys.exit(main())
