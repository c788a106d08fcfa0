"""Lines of code of each package, without blanks, comments and docstrings, and the ceilings that they keep to.

`make lint` runs it. A ceiling that is in the way is raised in the commit that needs it, with the reason in its message.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
CEILINGS = {"lts_ray": 21_600, "serve": 11_700, "benchmarks": 9_550}
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Lines that have a token which is neither a comment nor within a string that stands alone."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


def package_lines(package: str) -> int:
    files = sorted((ROOT / package).rglob("*.py"))
    return sum(code_lines(path.read_text(encoding="utf-8")) for path in files)


def main() -> int:
    counts = {package: package_lines(package) for package in CEILINGS}
    print(", ".join(f"{package}: {counts[package]:,} of {CEILINGS[package]:,} lines" for package in CEILINGS))
    return int(any(counts[package] > CEILINGS[package] for package in CEILINGS))


if __name__ == "__main__":
    sys.exit(main())
