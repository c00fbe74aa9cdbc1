"""What scripts/lib.sh says, for the tests beside this."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def shell(line):
    """What a line says that may use the functions of scripts/lib.sh."""
    command = ["bash", "-c", f". scripts/lib.sh; {line}"]
    return subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
