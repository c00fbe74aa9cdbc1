"""A host with real guests is emptied over a link of a known speed.

The whole platform is in a network whose loopback is that link: what crosses it while the host is
emptied is memory and volumes, and nearly nothing else.
"""

import re
import subprocess
import time

import client
import guests
import network

LINK_MBIT = 100
# On the same host, as long as it has room; each with data that no compression makes smaller.
PACKED = client.OURS.replace(
    "boot_volume =",
    'placement   = { prefer = "pack" }\n'
    '  user_data   = "#!/bin/sh\\ndd if=/dev/urandom of=/full bs=1M count=32\\n'
    'echo GUEST-FULL\\n"\n  boot_volume =',
)
FULL = b"GUEST-FULL\r"


class Emptied:
    """What emptying a host took, in seconds, and the bytes that crossed the link meanwhile."""

    def __init__(self, seconds, sent):
        self.seconds, self.sent = seconds, sent
        self.share = sent * 8 / 1e6 / seconds / LINK_MBIT


def await_full(data, count):
    """Waits until that many guests have their data."""
    deadline = time.time() + guests.PATIENCE + 20 * count
    while time.time() < deadline:
        consoles = [path.read_bytes() for path in data.glob("hosts/*/consoles/ins-*")]
        if sum(FULL in said for said in consoles) == count:
            return
        time.sleep(0.2)
    raise RuntimeError("the guests do not say that they have their data")


def drain(program, provider, terraform, version, folder, guest, count):
    """Makes that many guests on one host, and empties it."""
    with network.Network(folder, LINK_MBIT) as link:
        program, terraform = link.here(program), link.here(terraform)
        with client.Backend(program, folder / "data", "--guest", guest, hypervisor="qemu") as backend:
            work = client.Work(terraform, folder, "packed", PACKED, provider, "fairmazon/fairmazon",
                               version, backend.environment)
            work.begin(count, "packed")
            work.apply()
            await_full(backend.data, count)
            operator = client.operator(backend)
            listed = subprocess.run([program, "host", "list"], env=operator, check=True, text=True,
                                    stdout=subprocess.PIPE).stdout
            host = re.search(rf"^(\S+)\t.*\t{count} machines\t", listed, re.M)[1]
            sent, begin = link.carried(), time.monotonic()
            subprocess.run([program, "host", "drain", host], env=operator, check=True,
                           stdout=subprocess.DEVNULL)
            took = Emptied(time.monotonic() - begin, link.carried() - sent)
            work.run("destroy", "-input=false", "-auto-approve")
    return took
