"""The agent of a host with real guests: libvirt and the agent in namespaces of their own.

Owns the host's process. The agent is one of its own, as on a real host, so that its memory is
nobody else's.
"""

import subprocess
from pathlib import Path

import client

# Everything ends when the input does, or the agent.
SCRIPT = """
folder="$1"; shift
private_libvirt "$folder" 'log_outputs = "3:file:/var/log/libvirt/libvirtd.log"'
libvirtd --daemon </dev/null
exec 3<&0
"$@" </dev/null &
agent=$!
(read -r _; kill -TERM $agent) <&3 &
wait $agent
kill -KILL -1
"""


class Host(client.Process):
    """An agent with QEMU in a network with a backend that has the images of the guest."""

    def __init__(self, program, network, backend, repository, runtime):
        private = repository / "backend/hypervisor-libvirt/src/qemu/private_libvirt.sh"
        folder = network.folder
        libvirt, self.state = folder / "libvirt", folder / "agent"
        (folder / "storage" / "standard").mkdir(parents=True)
        _, *arguments = client.agent_command(
            network.here(program), folder, backend, "qemu",
            "--libvirt", f"qemu+unix:///system?socket={libvirt}/socket/libvirt-sock",
            "--storage-dir", folder / "storage", "--images-dir", backend.data / "images",
            "--image-key", backend.data / "image.key.pub", "--runtime-dir", runtime,
            "--storage", "standard=1", "--country", "LU", "--latitude", "49.6",
            "--longitude", "6.1", "--bridge", "guests",
        )
        super().__init__(
            client.READY_AGENT, *network.command, "unshare", "--mount", "--pid", "--uts", "--ipc",
            "--fork", "--kill-child", "bash", "-c", private.read_text() + SCRIPT, "host", libvirt,
            program, *arguments, stdin=subprocess.PIPE,
        )

    def measured(self):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except FileNotFoundError:
                continue  # It ended meanwhile.
            if words[0].endswith(b"/fairmazon") and str(self.state).encode() in words:
                return process.name
        raise RuntimeError("the agent is not there")

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
