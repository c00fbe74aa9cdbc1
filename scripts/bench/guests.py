"""Real guests, one after the other: from the moment that one is asked for to its first words.

Owns a platform with QEMU hosts, and a `qemu-img` in front of the real one that writes down when it
ran. What of a creation is not `qemu-img`, QEMU or the guest is the platform's own share, libvirt
included.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import client

# Crockford's base 32, which ids are written in.
DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
MARKER = b"GUEST-BOOT-DISK"
PATIENCE = 180

class Share:
    """What one creation took, in seconds."""

    def __init__(self, whole, tools, guest):
        self.whole, self.tools, self.guest = whole, tools, guest
        self.own = whole - tools - guest


def watched_tool(folder):
    """A folder with the `qemu-img` that writes down its runs, and the file that it writes to."""
    runs, real = folder / "runs", shutil.which("qemu-img")
    tool = folder / "bin" / "qemu-img"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\nbegin=$(date +%s%N)\n{real} "$@"\nstatus=$?\n'
        f'echo "$begin $(date +%s%N)" >>{runs}\nexit $status\n'
    )
    tool.chmod(0o755)
    runs.touch()
    return tool.parent, runs


def asked_at(instance):
    """When an id was made, in seconds: its first ten digits are milliseconds."""
    milliseconds = 0
    for digit in instance.split("-")[1][:10]:
        milliseconds = milliseconds * 32 + DIGITS.index(digit)
    return milliseconds / 1000


def began_at(instance):
    """When the machine's QEMU began, to the hundredth of a second."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"qemu-system" in command.split(b"\0")[0] and instance.encode() in command:
                fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
                return booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        except FileNotFoundError:
            continue  # It ended meanwhile.
    raise RuntimeError(f"no QEMU runs {instance}")


def first_words(data, instance):
    """When the guest was heard first."""
    deadline = time.time() + PATIENCE
    while time.time() < deadline:
        for console in data.glob(f"hosts/*/consoles/{instance}"):
            if MARKER in console.read_bytes():
                return time.time()
        time.sleep(0.01)
    raise RuntimeError(f"{instance} said nothing for {PATIENCE} s")


def tool_time(runs, begin, end):
    """Seconds in which `qemu-img` ran within a time; two at once count once."""
    busy, until = 0.0, begin
    for line in sorted(runs.read_text().splitlines()):
        first, last = (int(word) / 1e9 for word in line.split())
        first, last = max(first, until), min(last, end)
        if last > first:
            busy, until = busy + last - first, last
    return busy


def shares(program, provider, terraform, version, folder, guest, count):
    """Makes that many machines, each when the one before has spoken."""
    tools, runs = watched_tool(folder)
    path = f"{tools}:{os.environ['PATH']}"
    environment = dict(os.environ, PATH=path)
    with client.Backend(
        program, folder / "data", "--guest", guest, hypervisor="qemu", environment=environment
    ) as backend:
        work = client.Work(terraform, folder, "guests", client.OURS, provider, "fairmazon/fairmazon",
                           version, backend.environment)
        known = set()
        for number in range(1, count + 1):
            (work.folder / "main.tf").write_text(client.OURS % (number, "guest"))
            applying = subprocess.Popen(
                [terraform, "apply", "-input=false", "-auto-approve", "-no-color"],
                cwd=work.folder, env=work.environment, stdout=subprocess.DEVNULL,
            )
            instance = None
            while instance is None:
                consoles = {path.name for path in backend.data.glob("hosts/*/consoles/ins-*")}
                instance = next(iter(consoles - known), None)
                if instance is None and applying.poll():
                    raise RuntimeError(f"terraform ended with {applying.returncode}")
                time.sleep(0.01)
            known.add(instance)
            spoke, began, asked = first_words(backend.data, instance), began_at(instance), asked_at(instance)
            if applying.wait() != 0:
                raise RuntimeError(f"terraform ended with {applying.returncode}")
            yield Share(spoke - asked, tool_time(runs, asked, began), spoke - began)
        work.run("destroy", "-input=false", "-auto-approve")
