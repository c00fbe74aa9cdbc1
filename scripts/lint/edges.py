#!/usr/bin/env python3
"""Fails on a dependency between crates that the architecture forbids.

Owns the table of edges; reads `cargo metadata`. Dependencies for tests are free, but nothing
that ships may point outwards. Each refusal says which rule it breaks and why the rule is there.
"""

import json
import subprocess
import sys
from pathlib import Path

# A library, the only crates that may use it, and why.
HOMES = {
    "virt": ({"fairmazon-hypervisor-libvirt"}, "libvirt has one home, all others see the trait"),
    "virt-sys": ({"fairmazon-hypervisor-libvirt"}, "libvirt has one home, all others see the trait"),
    "rusqlite": ({"fairmazon-store"}, "no SQL outside of the store"),
    "tonic": (
        {
            "tfplugin",
            "terraform-provider-fairmazon",
            "fairmazon-proto",
            "fairmazon-broker",
            "fairmazon-host",
            "fairmazon",
        },
        "gRPC ends at the edges",
    ),
}

# Crates that know no runtime, and but for the known hosts of fairmazon-keys do no I/O.
PURE = {"fairmazon-keys", "fairmazon-model", "fairmazon-scheduler"}
IMPURE = {"tokio", "async-trait", "tonic", "rusqlite", "hyper-util", "futures", "tracing-subscriber"}

# A crate of ours and the crates of ours that it may use.
INWARDS = {
    "fairmazon-model": set(),
    "fairmazon-image": set(),
    "fairmazon-keys": {"fairmazon-model"},
    "tfplugin": set(),
    "acceptance": set(),
    "fairmazon-proto": {"fairmazon-model"},
    "fairmazon-scheduler": {"fairmazon-model"},
    "fairmazon-store": {"fairmazon-model"},
    "fairmazon-hypervisor": {"fairmazon-keys", "fairmazon-model"},
    "fairmazon-hypervisor-libvirt": {
        "fairmazon-model",
        "fairmazon-hypervisor",
        "fairmazon-image",
    },
    "terraform-provider-fairmazon": {
        "tfplugin",
        "fairmazon-keys",
        "fairmazon-model",
        "fairmazon-proto",
    },
    "fairmazon-host": {
        "fairmazon-keys",
        "fairmazon-model",
        "fairmazon-proto",
        "fairmazon-hypervisor",
    },
    "fairmazon-broker": {
        "fairmazon-keys",
        "fairmazon-model",
        "fairmazon-proto",
        "fairmazon-scheduler",
        "fairmazon-store",
    },
}


def problems(packages):
    """The forbidden edges among `packages` (as `cargo metadata` lists them), as sentences."""
    ours = {package["name"] for package in packages}
    for package in packages:
        name = package["name"]
        used = {d["name"] for d in package["dependencies"] if d["kind"] != "dev"}
        for library in sorted(used & HOMES.keys()):
            homes, why = HOMES[library]
            if name not in homes:
                yield f"{name} must not use {library}: {why} (allowed in {', '.join(sorted(homes))})"
        if name in PURE:
            for library in sorted(used & IMPURE):
                yield f"{name} must not use {library}: it is pure, without I/O and async"
        if name in INWARDS:
            for other in sorted((used & ours) - INWARDS[name]):
                allowed = ", ".join(sorted(INWARDS[name])) or "none of ours"
                yield f"{name} must not use {other}: dependencies point inwards (allowed: {allowed})"


def main():
    repository = Path(__file__).resolve().parents[2]
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    output = subprocess.run(command, cwd=repository, check=True, stdout=subprocess.PIPE).stdout
    found = list(problems(json.loads(output)["packages"]))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
