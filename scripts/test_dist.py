"""Tests of the release archives: what is in them, what they are called, and that Terraform takes
them. They are made of programs that are built already: those in FAIRMAZON_BIN_DIR, or cargo's
debug build."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

from shell import REPOSITORY, shell

TEXTS = ["LICENSE", "NOTICE", "THIRD-PARTY-NOTICES"]
SERVICES = ["broker.conf", "fairmazon-broker.service", "fairmazon-host.service", "host.conf"]
CONFIGURATION = """
terraform {
  required_providers {
    fairmazon = {
      source = "fairmazon/fairmazon"
    }
  }
}
"""


def dist(into, programs, **signed):
    command = [REPOSITORY / "scripts/dist", "--programs", programs, "--into", into]
    environment = {name: value for name, value in os.environ.items() if name != "FAIRMAZON_SIGNING_KEY"}
    environment |= signed
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Dist(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.programs = Path(os.environ.get("FAIRMAZON_BIN_DIR") or shell("target_dir") + "/debug")
        cls.home = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.home.cleanup)
        cls.folder = Path(cls.home.name, "dist")
        done = dist(cls.folder, cls.programs)
        if done.returncode != 0:
            raise AssertionError(f"scripts/dist failed:\n{done.stdout}")
        cls.version = re.search(r'^version = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.M)[1]
        cls.name = f"terraform-provider-fairmazon_{cls.version}"
        [cls.zip] = cls.folder.glob("*.zip")
        [cls.tar] = cls.folder.glob("*.tar.gz")

    def test_files_have_the_names_that_registries_look_for(self):
        self.assertRegex(self.version, r"^\d+\.\d+\.\d+$")
        platform = self.zip.name.removeprefix(f"{self.name}_").removesuffix(".zip")
        self.assertRegex(platform, r"^(linux|darwin)_(amd64|arm64)$")
        backend = f"fairmazon_{self.version}_{platform}.tar.gz"
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), sorted([
            f"{self.name}_{platform}.zip", f"{self.name}_manifest.json", f"{self.name}_SHA256SUMS",
            backend, f"{backend}.sha256",
        ]))

    def test_the_manifest_names_the_protocol(self):
        manifest = json.loads((self.folder / f"{self.name}_manifest.json").read_text())
        self.assertEqual(manifest, {"version": 1, "metadata": {"protocol_versions": ["6.0"]}})

    def test_sums_are_those_of_the_files(self):
        sums = (self.folder / f"{self.name}_SHA256SUMS").read_text()
        files = [self.zip, self.folder / f"{self.name}_manifest.json"]
        self.assertEqual(sums, "".join(f"{digest(file)}  {file.name}\n" for file in files))
        backend = Path(f"{self.tar}.sha256").read_text()
        self.assertEqual(backend, f"{digest(self.tar)}  {self.tar.name}\n")

    def test_the_zip_holds_the_plugin_and_its_texts(self):
        plugin = f"terraform-provider-fairmazon_v{self.version}"
        with zipfile.ZipFile(self.zip) as archive:
            self.assertEqual(archive.namelist(), [plugin, *TEXTS])
            for entry in archive.infolist():
                mode = entry.external_attr >> 16
                self.assertTrue(stat.S_ISREG(mode), entry.filename)
                self.assertEqual(stat.S_IMODE(mode), 0o755 if entry.filename == plugin else 0o644)
            built = (self.programs / "terraform-provider-fairmazon").read_bytes()
            self.assertTrue(archive.read(plugin) == built, "it is not the plugin that was built")
            for text in TEXTS:
                self.assertEqual(archive.read(text), (REPOSITORY / text).read_bytes())

    def test_the_backend_is_in_a_folder_of_its_own(self):
        folder = self.tar.name.removesuffix(".tar.gz")
        with tarfile.open(self.tar) as archive:
            members = {member.name: member for member in archive.getmembers()}
            files = ["fairmazon", *TEXTS, "README.md", *(f"systemd/{name}" for name in SERVICES)]
            self.assertEqual(set(members), {f"{folder}/{file}" for file in files})
            program = members.pop(f"{folder}/fairmazon")
            self.assertEqual((program.mode, program.uid, program.gid), (0o755, 0, 0))
            self.assertEqual({member.mode for member in members.values()}, {0o644})
            built = (self.programs / "fairmazon").read_bytes()
            self.assertTrue(archive.extractfile(program).read() == built, "it is not what was built")

    def test_the_services_start_with_options_that_their_programs_have(self):
        folder = self.tar.name.removesuffix(".tar.gz")
        services = Path(self.home.name, "services")
        with tarfile.open(self.tar) as archive:
            archive.extractall(services, filter="data")
        services = services / folder / "systemd"
        for command in ["broker", "host"]:
            unit = services / f"fairmazon-{command}.service"
            [start] = re.findall(r"^ExecStart=/usr/local/bin/fairmazon (.*)$", unit.read_text(), re.M)
            [options] = re.findall(r"^OPTIONS=(.*)$", (services / f"{command}.conf").read_text(), re.M)
            options = options.replace("HOST-ID", "hst-01jz0000000000000000000000")
            arguments = start.replace("$OPTIONS", options).split()
            self.assertEqual(arguments[0], command)
            # What is not an option of it, or not of its form, is refused before help is shown.
            for more, expected in [([], 0), (["--no-such-option"], 2)]:
                done = subprocess.run([self.programs / "fairmazon", *arguments, *more, "--help"],
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                self.assertEqual(done.returncode, expected, done.stdout)
            text = unit.read_text()
            self.assertIn("\nRestart=always\n", text)
            self.assertNotIn("\nRuntimeDirectory=", text, "guests' consoles would go with the agent")
            unit.write_text(text.replace("/usr/local/bin/fairmazon", str(self.programs / "fairmazon")))
            if shutil.which("systemd-analyze"):
                done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit],
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                said = [line for line in done.stdout.splitlines() if unit.name in line]
                self.assertEqual((done.returncode, said), (0, []), done.stdout)

    def test_terraform_installs_the_zip_and_talks_to_the_plugin(self):
        work = Path(self.home.name, "work")
        work.mkdir()
        (work / "main.tf").write_text(CONFIGURATION)
        # A mirror of archives is what `terraform providers mirror` makes of a registry's answers.
        for registry in ["registry.terraform.io", "registry.opentofu.org"]:
            mirror = work / "mirror" / registry / "fairmazon/fairmazon"
            mirror.mkdir(parents=True)
            (mirror / self.zip.name).hardlink_to(self.zip)
        (work / "cli.tfrc").write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{work}/mirror"\n  }}\n}}\n'
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
        environment |= {"TF_CLI_CONFIG_FILE": str(work / "cli.tfrc"), "CHECKPOINT_DISABLE": "1"}
        terraform = shell("terraform_cli")

        def run(*arguments):
            done = subprocess.run([terraform, *arguments], cwd=work, env=environment, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.assertEqual(done.returncode, 0, done.stdout)
            return done.stdout

        self.assertIn(f"v{self.version}", run("init", "-no-color", "-input=false"))
        schemas = json.loads(run("providers", "schema", "-json"))["provider_schemas"]
        [schema] = schemas.values()
        self.assertIn("fairmazon_instance", schema["resource_schemas"])

    def test_the_sums_are_signed_with_the_key_that_is_named(self):
        # The agent's socket is in it: its path has to be short.
        with tempfile.TemporaryDirectory() as keys:
            environment = {**os.environ, "GNUPGHOME": keys}

            def gpg(*arguments):
                done = subprocess.run(["gpg", "--batch", *arguments], env=environment, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                self.assertEqual(done.returncode, 0, done.stdout)
                return done.stdout

            signer = "Releases <releases@example.com>"
            gpg("--passphrase", "", "--quick-generate-key", signer, "default", "sign", "never")
            signed = Path(self.home.name, "signed")
            named = {"GNUPGHOME": keys, "FAIRMAZON_SIGNING_KEY": "releases@example.com"}
            done = dist(signed, self.programs, **named)
            self.assertEqual(done.returncode, 0, done.stdout)
            sums = signed / f"{self.name}_SHA256SUMS"
            told = gpg("--verify", f"{sums}.sig", sums)
            self.assertIn(f'Good signature from "{signer}"', told)
            self.assertEqual(sums.read_bytes(), (self.folder / sums.name).read_bytes())
            nobody = {**named, "FAIRMAZON_SIGNING_KEY": "nobody@example.com"}
            self.assertNotEqual(dist(signed, self.programs, **nobody).returncode, 0)
            subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=True)

    def test_archives_of_one_commit_are_equal(self):
        again = Path(self.home.name, "again")
        self.assertEqual(dist(again, self.programs).returncode, 0)
        for path in self.folder.iterdir():
            self.assertEqual(digest(path), digest(again / path.name), path.name)

    def test_what_can_not_be_packed_is_told(self):
        with tempfile.TemporaryDirectory() as empty:
            done = dist(Path(empty, "out"), empty)
            self.assertEqual(done.returncode, 1)
            self.assertIn("fairmazon is not there", done.stdout)
        kept = sorted(self.folder.iterdir())
        done = dist(self.folder, self.programs)
        self.assertEqual((done.returncode, sorted(self.folder.iterdir())), (1, kept))
        self.assertIn("is not empty", done.stdout)


if __name__ == "__main__":
    unittest.main()
