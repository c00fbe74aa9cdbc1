"""Tests of the bench: that measures are made and judged by their limits, and that what could not be
measured is no success. How fast anything is, is not asserted here."""

import os
import re
import subprocess
import tempfile
import unittest

from shell import REPOSITORY, shell


def bench(programs, *arguments):
    environment = {
        **os.environ,
        "FAIRMAZON_BENCH_BIN": str(programs),
        "FAIRMAZON_BENCH_TERRAFORM": shell("terraform_cli"),
        "FAIRMAZON_BENCH_NULL": shell("find \"$VENV\" -name 'terraform-provider-null_*' -print -quit"),
    }
    command = [shell('echo "$VENV"') + "/bin/python", "-B", REPOSITORY / "scripts/bench/main.py", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(done):
    """What is measured, the figure, the limit and whether it is met, of each line of the table."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        subprocess.run([REPOSITORY / "scripts/setup", "--for", "bench"], check=True)
        cls.programs = os.environ.get("FAIRMAZON_BIN_DIR") or shell("target_dir") + "/debug"

    def test_measures_are_judged_by_their_limits(self):
        done = bench(self.programs, "--only", "start,ready", "--rounds", "1")
        found = rows(done)
        self.assertEqual(len(found), 4, done.stdout + done.stderr)
        for what, measured, limit, met in found:
            figure, most = (float(re.search(r"[\d.]+", text)[0]) for text in (measured, limit))
            self.assertGreater(figure, 0, what)
            # Shown rounded, and judged before.
            if round(figure) != most:
                self.assertEqual(met, "yes" if figure < most else "**no**", what)
        self.assertEqual(done.returncode, int(any(row[3] != "yes" for row in found)), done.stdout)
        self.assertRegex(done.stdout, r"Medians of 1 rounds, of what takes minutes of 1\. \d+ cores of .+, \d+ GiB, Linux ")

    def test_what_could_not_be_measured_is_no_success(self):
        with tempfile.TemporaryDirectory() as empty:
            done = bench(empty, "--only", "start", "--rounds", "1")
        self.assertEqual(rows(done), [["Plugin start to schema.", "could not be measured", "", ""]])
        self.assertEqual(done.returncode, 1)

    def test_a_measure_that_there_is_not_is_named(self):
        done = bench(self.programs, "--only", "speed")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no measure speed; there are start, ready", done.stderr)


if __name__ == "__main__":
    unittest.main()
