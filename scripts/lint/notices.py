#!/usr/bin/env python3
"""Writes and checks THIRD-PARTY-NOTICES: who wrote what is linked into the released programs,
and under which licence.

Owns the list of licences that may be linked and the file's form. Reads `cargo metadata` and the
licence files in the crates' own sources. Same licence texts are printed once.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "THIRD-PARTY-NOTICES"
SHIPPED = ("fairmazon", "terraform-provider-fairmazon")

# Licences without conditions that an Apache-2.0 program could not meet.
ALLOWED = {
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "CC0-1.0",
    # `virt` and `virt-sys`, which NOTICE names. Whoever wants another version of them builds the
    # programs again: all that takes is in this repository.
    "LGPL-2.1",
    "LGPL-2.1-or-later",
}

# Sources that packages have with them and that are not compiled into the programs.
NOT_BUILT = {"sqlcipher"}


def alternatives(expression):
    """An SPDX expression as a list of choices, each the set of licences it asks for."""
    expression = expression.replace("/", " OR ")
    tokens = re.findall(r"\(|\)|AND|OR|[\w.+-]+(?: WITH [\w.+-]+)?", expression)
    position = 0

    def either():
        nonlocal position
        choices = both()
        while position < len(tokens) and tokens[position] == "OR":
            position += 1
            choices = choices + both()
        return choices

    def both():
        nonlocal position
        choices = one()
        while position < len(tokens) and tokens[position] == "AND":
            position += 1
            further = one()
            choices = [left | right for left in choices for right in further]
        return choices

    def one():
        nonlocal position
        token = tokens[position]
        position += 1
        if token == "(":
            choices = either()
            position += 1
            return choices
        return [frozenset([token])]

    return either()


def may_be_linked(expression):
    """Whether one choice of the expression asks for nothing but allowed licences."""
    return any(choice <= ALLOWED for choice in alternatives(expression))


def linked(metadata):
    """The packages that the shipped programs are built from, ours aside, by name and version."""
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    waiting = [i for i, p in packages.items() if p["name"] in SHIPPED and p["source"] is None]
    seen = set()
    while waiting:
        package = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        for edge in edges[package]:
            if any(kind["kind"] is None for kind in edge["dep_kinds"]):
                waiting.append(edge["pkg"])
    found = [packages[i] for i in seen if packages[i]["source"] is not None]
    return sorted(found, key=lambda p: (p["name"], p["version"]))


def licence_texts(package):
    """The licence and notice files in the package's source, and in the C sources in it."""
    folder = Path(package["manifest_path"]).parent
    wanted = re.compile(r"^(LICEN[CS]E|COPYING|NOTICE|UNLICENSE|COPYRIGHT)", re.IGNORECASE)
    files = sorted(f for f in folder.iterdir() if f.is_file() and wanted.match(f.name))
    if package["name"].endswith("-sys"):
        deeper = sorted(f for f in folder.glob("*/**/*") if f.is_file() and wanted.match(f.name))
        files += [f for f in deeper if NOT_BUILT.isdisjoint(f.relative_to(folder).parts)]
    texts = [f.read_text(encoding="utf-8", errors="replace") for f in files]
    return ["\n".join(line.rstrip() for line in text.strip().splitlines()) for text in texts]


def document(packages):
    """The whole file, and a list of packages whose licence is not allowed."""
    refused = []
    lines = [
        "Third-party software in Fairmazon's released programs",
        "",
        "Written by `make notices` from the sources of the dependencies. A dependency offered",
        "under several licences is used under one that Apache-2.0 programs can include.",
        "",
    ]
    users, shown = {}, {}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        licence = package["license"] or "no licence named"
        if package["license"] is None or not may_be_linked(package["license"]):
            refused.append(f"{name}: {licence}")
        lines.append(f"{name}: {licence}")
        for text in licence_texts(package):
            # Texts that differ in line breaks only are the same licence.
            same = " ".join(text.split()).lower()
            shown.setdefault(same, text)
            if name not in users.setdefault(same, []):
                users[same].append(name)
    for same, names in sorted(users.items(), key=lambda item: item[1]):
        lines += ["", "=" * 78, *wrapped(names), "-" * 78, shown[same]]
    return "\n".join(lines) + "\n", refused


def wrapped(names):
    """Names in lines of at most 78 characters."""
    line = ""
    for name in names:
        if line and len(line) + len(name) + 2 > 78:
            yield line + ","
            line = name
        else:
            line = f"{line}, {name}" if line else name
    yield line


def main():
    target = "x86_64-unknown-linux-gnu"
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    output = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
    text, refused = document(linked(json.loads(output)))
    for package in refused:
        print(f"error: {package}: not a licence that may be linked (see ALLOWED)", file=sys.stderr)
    if "--write" in sys.argv:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        print(f"error: {FILE.name} is not current: run `make notices`", file=sys.stderr)
        return 1
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
