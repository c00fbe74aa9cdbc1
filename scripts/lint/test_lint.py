"""Tests of the checks: each must be able to fail."""

import subprocess
import unittest
from pathlib import Path

import edges
import notices
import words


def package(name, *dependencies, kind=None):
    return {"name": name, "dependencies": [{"name": d, "kind": kind} for d in dependencies]}


class Edges(unittest.TestCase):
    def found(self, *packages):
        return list(edges.problems(packages))

    def test_the_only_homes_of_libraries(self):
        self.assertEqual(self.found(package("fairmazon-store", "rusqlite")), [])
        self.assertIn("rusqlite", self.found(package("fairmazon-broker", "rusqlite"))[0])
        self.assertIn("virt", self.found(package("fairmazon-host", "virt"))[0])
        self.assertIn("tonic", self.found(package("fairmazon-store", "tonic"))[0])

    def test_pure_crates_know_no_runtime(self):
        self.assertIn("pure", self.found(package("fairmazon-scheduler", "tokio"))[0])
        self.assertEqual(self.found(package("fairmazon-scheduler", "tokio", kind="dev")), [])

    def test_dependencies_point_inwards(self):
        store, model = package("fairmazon-store"), package("fairmazon-model")
        self.assertEqual(self.found(model, package("terraform-provider-fairmazon", "fairmazon-model")), [])
        self.assertIn("inwards", self.found(store, package("terraform-provider-fairmazon", "fairmazon-store"))[0])
        self.assertIn("inwards", self.found(store, package("fairmazon-host", "fairmazon-store"))[0])


class Words(unittest.TestCase):
    def found(self, text, path="a/b.rs"):
        return list(words.problems(path, text))

    def test_a_clean_file_passes(self):
        self.assertEqual(self.found("//! Owns x.\n\nfn a() {}\n"), [])

    def test_each_pattern_is_found_with_its_line(self):
        for bad in ["/work/" + "main/x", "TO" + "DO: later", "#[ig" + "nore]", "// let x = 1;"]:
            with self.subTest(bad):
                self.assertRegex(self.found(f"//! Owns x.\n{bad}\n")[0], r"^a/b\.rs:2: ")

    def test_headers_and_lengths(self):
        self.assertIn("opens without", self.found("fn a() {}\n")[0])
        self.assertIn("split", self.found("//! Owns x.\n" + "\n" * 700)[0])
        self.assertEqual(self.found("no header\n", path="a.md"), [])


class Notices(unittest.TestCase):
    def test_expressions(self):
        for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0",
                     "Apache-2.0 WITH LLVM-exception OR GPL-2.0"]:
            self.assertTrue(notices.may_be_linked(good), good)
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND AGPL-3.0"]:
            self.assertFalse(notices.may_be_linked(bad), bad)

    def test_only_what_ships_is_listed(self):
        def crate(name, source="index"):
            return {"id": name, "name": name, "version": "1.0.0", "source": source}

        def edge(name, kind):
            return {"pkg": name, "dep_kinds": [{"kind": kind}]}

        metadata = {
            "packages": [crate("fairmazon", None), crate("used"), crate("deep"), crate("tests")],
            "resolve": {"nodes": [
                {"id": "fairmazon", "deps": [edge("used", None), edge("tests", "dev")]},
                {"id": "used", "deps": [edge("deep", None)]},
                {"id": "deep", "deps": []},
                {"id": "tests", "deps": []},
            ]},
        }
        self.assertEqual([p["name"] for p in notices.linked(metadata)], ["deep", "used"])


class Count(unittest.TestCase):
    def counted(self, text):
        awk = ["awk", "-f", Path(__file__).resolve().parents[1] / "count.awk"]
        done = subprocess.run(awk, input=text, check=True, stdout=subprocess.PIPE, text=True)
        return tuple(map(int, done.stdout.split()))

    def test_each_runner_is_read(self):
        nextest = "     Summary [   0.1s] 14 tests run: 11 passed (1 slow), 2 failed, 1 timed out, 3 skipped\n"
        self.assertEqual(self.counted(nextest), (11, 3))
        cargo = "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out\n"
        self.assertEqual(self.counted(cargo + cargo), (10, 4))
        self.assertEqual(self.counted("Ran 8 tests in 0.010s\n\nOK\n"), (8, 0))
        self.assertEqual(self.counted("Ran 8 tests in 0.01s\n\nFAILED (failures=1, errors=2)\n"), (5, 3))

    def test_colours_and_other_lines_do_not_matter(self):
        coloured = "\x1b[32m     Summary\x1b[0m [   0.1s] 2 tests run: 2 passed, 0 skipped\n"
        self.assertEqual(self.counted("7 passed\n" + coloured), (2, 0))
        self.assertEqual(self.counted("nothing\n"), (0, 0))


if __name__ == "__main__":
    unittest.main()
