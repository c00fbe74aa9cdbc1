"""Terraform over 1,000 resources: ours and the Go null provider's, side by side.

Owns the working folders, a mirror with both providers and the backend's process. Rounds of both
take turns, so that a busy moment of the machine hits both.
"""

import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path

import plugin

PLATFORM = "linux_" + {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]

OURS = """
terraform {
  required_providers {
    fairmazon = { source = "fairmazon/fairmazon" }
  }
}
resource "fairmazon_instance" "it" {
  count  = %d
  name   = "bench-%s-${count.index}"
  flavor = "tiny"
  image  = "alpine-3.22"
  boot_volume = { size_gib = 1 }
}
"""
NULL = """
terraform {
  required_providers {
    null = { source = "hashicorp/null" }
  }
}
resource "null_resource" "it" {
  count    = %d
  triggers = { name = "bench-%s-${count.index}", flavor = "tiny", image = "alpine-3.22" }
}
"""
# On the one host that is in that country; real guests rest once they have started.
THERE = OURS.replace(
    "boot_volume =",
    'placement   = { countries = ["LU"] }\n'
    '  user_data   = "#!/bin/sh\\necho 3600 >/pace\\n"\n  boot_volume =',
)
# As many values as an instance has, of about the same length: what Terraform itself then takes.
WIDE = NULL.replace(
    'image = "alpine-3.22" }',
    'image = "alpine-3.22",\n    %s }' % ", ".join(f'value{n:02} = "{"x" * 12}"' for n in range(33)),
)


# What an agent says when it works.
READY_AGENT = r"the agent of"


class Process:
    """A program that runs until the end of the block, once it has said that it is ready."""

    def __init__(self, ready, *command, environment=None, stdin=None):
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for line in self.process.stdout:
            self.ready = re.search(ready, line)
            self.hear(line)
            if self.ready:
                break
        else:
            raise RuntimeError(f"{command} ended before it was ready")
        # What it says later is not needed, but a full pipe would stop it.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def hear(self, line):
        """For those who need more than the line that says it is ready."""

    def measured(self):
        """The process whose memory counts."""
        return self.process.pid

    def settled_kib(self, rest=5):
        """Resident KiB after this rest, in seconds, when they have not changed for a second (ten
        seconds at most)."""
        time.sleep(rest)
        before, same = 0, 0
        for _ in range(50):
            now = plugin.resident_kib(self.measured())
            same = same + 1 if now == before else 0
            if same == 5:
                break
            before = now
            time.sleep(0.2)
        return now

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Backend(Process):
    """`fairmazon dev` on a free port over a folder of its own."""

    def __init__(self, program, data, *more, hypervisor="simulated", environment=None):
        self.environment, self.data = {}, Path(data)
        super().__init__(
            r"Ctrl-C ends it", program, "dev", "--hypervisor", hypervisor,
            "--listen", "127.0.0.1:0", "--data-dir", data, *more, environment=environment,
        )

    def hear(self, line):
        found = re.match(r"\s*export (FAIRMAZON_\w+)=(.*)", line)
        if found:
            self.environment[found[1]] = shlex.split(found[2])[0]


def operator(backend):
    """What an operator of hosts has in the environment."""
    environment = dict(os.environ)
    for line in (backend.data / "env.hosts").read_text().splitlines():
        name, value = line.removeprefix("export ").split("=", 1)
        environment[name] = shlex.split(value)[0]
    return environment


def agent_command(program, folder, backend, hypervisor, *more):
    """What starts the agent of one more host, in Luxembourg, which is registered here."""
    offer = ["--name", "bench", "--site", "bench1", "--town", "Bench", "--country", "LU",
             "--region", "eu-central", "--latitude", "49.6", "--longitude", "6.1", "--vcpus", "64",
             "--memory-mib", "65536", "--storage", "standard=1000"]
    done = subprocess.run([program, "host", "register", *offer], env=operator(backend), check=True,
                          stdout=subprocess.PIPE, text=True)
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    (folder / "token").write_text(told["token"])
    (folder / "token").chmod(0o600)
    return [
        program, "host", "--broker", backend.environment["FAIRMAZON_ENDPOINT"],
        "--host-id", told["id"], "--token-file", folder / "token",
        "--ca", backend.environment["FAIRMAZON_CA_CERTIFICATE"],
        "--state-dir", folder / "agent", "--hypervisor", hypervisor, *more,
    ]


def agent(program, folder, backend):
    """An agent with simulated machines, in a process of its own."""
    return Process(READY_AGENT, *agent_command(program, folder, backend, "simulated"))


class Work:
    """An initialised folder of one configuration."""

    def __init__(self, terraform, folder, name, main, plugin, source, version, environment):
        self.terraform = terraform
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.times = folder / f"{name}.times"
        self.home = folder / "mirror" / "registry.terraform.io" / source / version / PLATFORM
        self.file = self.home / f"terraform-provider-{source.split('/')[1]}_v{version}"
        self.plugin = plugin
        configuration = folder / f"{name}.tfrc"
        mirror = f'filesystem_mirror {{ path = "{folder}/mirror" }}'
        configuration.write_text(f"provider_installation {{\n  {mirror}\n}}\n")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "FAIRMAZON_"))}
        self.environment = kept | environment | {
            "TF_CLI_CONFIG_FILE": str(configuration),
            "CHECKPOINT_DISABLE": "1",
        }
        self.main = main
        self.begin(1, "none")
        self.install(measured=False)

    def install(self, measured):
        """Puts the plugin into the mirror: itself, or a script that writes down its CPU time."""
        shutil.rmtree(self.folder / ".terraform", ignore_errors=True)
        (self.folder / ".terraform.lock.hcl").unlink(missing_ok=True)
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        if measured:
            self.file.write_text(f'#!/bin/sh\n{self.plugin} "$@"\ntimes >>{self.times}\n')
            self.file.chmod(0o755)
        else:
            shutil.copy(self.plugin, self.file)
        self.run("init", "-input=false")

    def run(self, *arguments):
        """Seconds that one command took."""
        begin = time.monotonic()
        done = subprocess.run(
            [self.terraform, *arguments, "-no-color"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"terraform {' '.join(arguments)}:\n{done.stdout[-4000:]}")
        return time.monotonic() - begin

    def plan(self):
        return self.run("plan", "-input=false", "-detailed-exitcode")

    def apply(self):
        return self.run("apply", "-input=false", "-auto-approve")

    def begin(self, count, mark):
        """Starts over with an empty state and resources that never were before."""
        for state in self.folder.glob("terraform.tfstate*"):
            state.unlink()
        (self.folder / "main.tf").write_text(self.main % (count, mark))

    def plan_cpu(self):
        """CPU seconds (user and system) of one plan: of all plugin processes, of Terraform."""
        self.install(measured=True)
        self.times.unlink(missing_ok=True)
        before = children_cpu()
        self.plan()
        both = children_cpu() - before
        # Each process wrote two lines: the shell's own times and its children's.
        children = self.times.read_text().splitlines()[1::2]
        self.install(measured=False)
        of_plugin = sum(seconds(word) for line in children for word in line.split())
        return of_plugin, both - of_plugin


def children_cpu():
    """CPU seconds of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(word):
    """`0m1.25s` -> 1.25"""
    minutes, rest = word.rstrip("s").split("m")
    return int(minutes) * 60 + float(rest)
