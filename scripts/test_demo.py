"""The demonstration of the README, as a newcomer runs it: it gets to its end, shows what it promises,
and leaves nothing behind."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# In this order.
SHOWN = [
    "terraform init",
    "price_per_month",
    "Apply complete!",
    "a second plan: nothing to do",
    "No changes.",
    "0 added, 3 changed, 0 destroyed",
    "destroy: refused",
    "deletion_protection",
    "Destroy complete!",
    "done: planned with prices, created, changed in place, protected, destroyed",
]
# Where a guest can be booted.
SHOWN_BY_A_GUEST = ["said by the machine itself", "Destroy complete!", "done: a guest booted"]


def running(home):
    """The platforms on this machine with their data in a folder: others' are not this test's."""
    found = subprocess.run(
        ["pgrep", "-f", f"fairmazon dev.*{home}"], stdout=subprocess.PIPE, text=True, check=False)
    return found.stdout.split()


class Demo(unittest.TestCase):
    def test_it_shows_all_that_it_promises_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [REPOSITORY / "scripts/demo"], env={**os.environ, "TMPDIR": home},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertEqual(list(Path(home).iterdir()), [], "it owns a folder, and removes it")
            self.assertEqual(running(home), [], "it ends its platform")
        # The demo installs what guests need where it may; where it may, none is missing.
        shown = SHOWN + SHOWN_BY_A_GUEST if os.geteuid() == 0 else SHOWN
        rest = done.stdout
        for text in shown:
            self.assertIn(text, rest, f"in this order, in\n{done.stdout}")
            rest = rest.split(text, 1)[1]


if __name__ == "__main__":
    unittest.main()
