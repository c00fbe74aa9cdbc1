"""A network of its own for what is measured: nothing else crosses its loopback, and its bridges and
addresses collide with nobody's."""

import os
import subprocess


class Network:
    """A network namespace until the end of the block; its loopback carries no more than
    `link_mbit`, if that is given."""

    def __init__(self, folder, link_mbit=None):
        self.name, self.folder, self.link_mbit = f"fairmazon-{os.getpid()}", folder, link_mbit
        # What runs there begins with these words.
        self.command = ["ip", "netns", "exec", self.name]

    def __enter__(self):
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip", "link", "set", "lo", "up")
        if self.link_mbit is not None:
            shape = ["rate", f"{self.link_mbit}mbit", "burst", "256kb", "latency", "100ms"]
            self.run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *shape)
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def run(self, *words):
        """What a program says that runs there."""
        return subprocess.run([*self.command, *words], check=True, text=True,
                              stdout=subprocess.PIPE).stdout

    def here(self, program):
        """A program that runs there, whoever starts it."""
        script = self.folder / f"{program.name}-here"
        script.write_text(f'#!/bin/sh\nexec {" ".join(self.command)} {program} "$@"\n')
        script.chmod(0o755)
        return script

    def carried(self):
        """Bytes that have crossed its loopback."""
        return int(self.run("cat", "/sys/class/net/lo/statistics/tx_bytes"))
