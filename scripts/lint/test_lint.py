"""Tests of the checks: each must be able to fail."""

import unittest

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


if __name__ == "__main__":
    unittest.main()
