"""The package of `tfplugin` is whole: what its crate and its tests are compiled from is in it, and it
says under what licence and where it is described. Nothing is compiled or fetched."""

import json
import os
import re
import subprocess
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CRATE = REPOSITORY / "provider/tfplugin"
# A crate of its own for a nightly compiler, which no package takes along.
LEFT_OUT = "fuzz/"


def output(*command):
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def packaged():
    command = ["cargo", "package", "--list", "--offline", "--allow-dirty", "-p", "tfplugin"]
    return set(output(*command).splitlines())


class Package(unittest.TestCase):
    def test_it_has_all_files_of_the_crate(self):
        tracked = output("git", "ls-files", "-z", CRATE.relative_to(REPOSITORY).as_posix())
        files = {
            (REPOSITORY / name).relative_to(CRATE).as_posix()
            for name in filter(None, tracked.split("\0"))
        }
        # What is linked as a folder is there by its files.
        files = {name for name in files if not (CRATE / name).is_dir()}
        files = {name for name in files if not name.startswith(LEFT_OUT)}
        missing = sorted(files - packaged())
        self.assertEqual(missing, [])
        self.assertIn("proto/goplugin/broker.proto", packaged())

    def test_nothing_in_it_is_made_of_files_that_are_not(self):
        there = packaged()
        for name in sorted(name for name in there if name.endswith(".rs")):
            text = (CRATE / name).read_text(encoding="utf-8")
            named = re.findall(r'(?:#\[path = |include(?:_str|_bytes)?!\()"([^"]+)"', text)
            for path in named:
                # By name alone: some of its files are links to what the workspace shares.
                whole = os.path.normpath(Path(name).parent / path)
                self.assertTrue(whole in there, f"{name} is made of {path}")

    def test_it_says_what_others_want_to_know(self):
        whole = output("cargo", "metadata", "--no-deps", "--offline", "--format-version", "1")
        package = next(one for one in json.loads(whole)["packages"] if one["name"] == "tfplugin")
        for field in ["description", "license", "documentation", "readme", "rust_version"]:
            self.assertTrue(package[field], field)
        there = packaged()
        self.assertIn("README.md", there)
        self.assertIn("LICENSE", there)
        # To be published it needs a place where its source is.
        self.assertTrue(package["repository"] or package["publish"] == [])


if __name__ == "__main__":
    unittest.main()
