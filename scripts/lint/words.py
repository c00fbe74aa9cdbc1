#!/usr/bin/env python3
"""Fails on text that must not be in a committed file, and on source files without a header.

Owns the patterns, each with its reason. Reads what git tracks or would track; never changes a
file. Generated code is judged like any other text, lock files and licences are not.
"""

import re
import subprocess
import sys
from pathlib import Path

# Words that would match here are written so that this file does not match itself.
PATTERNS = [
    (r"/work/(?:main|shared|\.library)|/tmp/w[t]/", None, "a path of one machine"),
    (r"\b(?:pypi\.or[g]|index\.crates\.i[o]|static\.crates\.i[o]|deb\.debian\.or[g]|registry\.npmjs\.or[g])", None, "the host name of a package index"),
    (r"#\[ignor[e]", r"\.rs$", "an ignored test: make it pass or remove it"),
    (r"\b(?:TOD[O]|FIXM[E]|XX[X])\b(?!\()", None, "a note without a reason: write TODO(why) or do it"),
    (r"^\s*//\s*(?:let|fn|pub|use|if|for|return) .*[;{]\s*$", r"\.rs$", "commented-out code"),
    (r"<{7} |>{7} ", None, "a merge conflict"),
]
NOT_JUDGED = re.compile(
    r"(^|/)(Cargo\.lock|LICENSE[^/]*|THIRD-PARTY-NOTICES|.*\.(png|svg|tsv|gz|zip))$"
)
LONGEST = 600


def problems(path, text):
    """What is wrong with the file at `path` (relative), as `path:line: why`."""
    for pattern, only, why in PATTERNS:
        if only and not re.search(only, path):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(pattern, line):
                yield f"{path}:{number}: {why}"
    if path.endswith(".rs"):
        if not text.startswith("//!"):
            yield f"{path}:1: opens without `//!` that says what it owns and refuses"
        length = text.count("\n")
        if length > LONGEST:
            yield f"{path}:{LONGEST}: {length} lines are more than one thing, split it"


def main():
    repository = Path(__file__).resolve().parents[2]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repository, check=True, stdout=subprocess.PIPE).stdout
    found = []
    for path in sorted(filter(None, listed.decode().split("\0"))):
        file = repository / path
        if NOT_JUDGED.search(path) or file.is_symlink() or not file.is_file():
            continue
        try:
            found.extend(problems(path, file.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
