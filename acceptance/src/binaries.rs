//! The programs under test: built once, found by everybody.
//!
//! Owns: their paths and the mirror that Terraform installs the plugin from. `make` builds them
//! and names their folder in `FAIRMAZON_BIN_DIR`; without it they are built here.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{Failure, Outcome};

/// The built programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The backend's one program.
    pub fairmazon: PathBuf,
    /// The plugin.
    pub provider: PathBuf,
}

/// The repository's root.
pub fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.parent().unwrap_or(here).to_path_buf()
    })
}

impl Binaries {
    /// Builds or finds them.
    ///
    /// # Errors
    /// `Missing` when they cannot be built or are not in `FAIRMAZON_BIN_DIR`.
    pub fn find() -> Outcome<&'static Self> {
        static FOUND: OnceLock<Binaries> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        let folder = match env::var_os("FAIRMAZON_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => build()?,
        };
        Ok(FOUND.get_or_init(|| Self::in_folder(&folder))).and_then(Self::checked)
    }

    fn in_folder(folder: &Path) -> Self {
        Self {
            fairmazon: folder.join("fairmazon"),
            provider: folder.join("terraform-provider-fairmazon"),
        }
    }

    fn checked(&'static self) -> Outcome<&'static Self> {
        for program in [&self.fairmazon, &self.provider] {
            if !program.is_file() {
                return Err(Failure::Missing(format!(
                    "{} is not there: run `cargo build -p fairmazon -p terraform-provider-fairmazon`, or set FAIRMAZON_BIN_DIR to the folder that holds both programs",
                    program.display()
                )));
            }
        }
        Ok(self)
    }

    /// Lays out `folder` as a mirror of both registries that holds the plugin, and writes the CLI
    /// configuration that allows nothing else. Returns that file's path.
    ///
    /// # Errors
    /// `File` when the folder cannot be written.
    pub fn mirror(&self, folder: &Path) -> Outcome<PathBuf> {
        let version = env!("CARGO_PKG_VERSION");
        for registry in ["registry.terraform.io", "registry.opentofu.org"] {
            let home = folder
                .join("mirror")
                .join(registry)
                .join("fairmazon/fairmazon")
                .join(version)
                .join(platform());
            fs::create_dir_all(&home).map_err(Failure::file("create", &home))?;
            let plugin = home.join(format!("terraform-provider-fairmazon_v{version}"));
            // A hard link costs nothing; across file systems only a copy is possible.
            if fs::hard_link(&self.provider, &plugin).is_err() {
                fs::copy(&self.provider, &plugin).map_err(Failure::file("write", &plugin))?;
            }
        }
        let configuration = folder.join("cli.tfrc");
        let mirror = folder.join("mirror");
        let text = format!(
            "provider_installation {{\n  filesystem_mirror {{\n    path = {:?}\n  }}\n}}\n",
            mirror.display().to_string()
        );
        fs::write(&configuration, text).map_err(Failure::file("write", &configuration))?;
        Ok(configuration)
    }
}

/// The platform as registries name it (`linux_amd64`).
fn platform() -> String {
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let system = match env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    format!("{system}_{architecture}")
}

/// Builds both programs in the profile and folder that this test was built in.
fn build() -> Outcome<PathBuf> {
    let test = env::current_exe().map_err(Failure::file("find", "the test's own program"))?;
    let folder = test
        .ancestors()
        .find(|folder| folder.join("deps").is_dir() && folder.join(".fingerprint").is_dir())
        .ok_or_else(|| {
            Failure::Missing(format!(
                "{} is in no folder of cargo's: set FAIRMAZON_BIN_DIR to the folder that holds `fairmazon` and `terraform-provider-fairmazon`",
                test.display()
            ))
        })?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args([
        "build",
        "--quiet",
        "-p",
        "fairmazon",
        "-p",
        "terraform-provider-fairmazon",
    ]);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let output =
        command.output().map_err(|source| Failure::Start { program: "cargo".into(), source })?;
    if !output.status.success() {
        return Err(Failure::Missing(format!(
            "the programs under test do not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    Ok(folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_has_the_registries_layout() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("plugin");
        fs::write(&program, "a program").unwrap();
        let binaries = Binaries { fairmazon: program.clone(), provider: program };
        let configuration = binaries.mirror(folder.path()).unwrap();
        let text = fs::read_to_string(configuration).unwrap();
        assert!(text.contains("filesystem_mirror") && !text.contains("direct"), "{text}");
        for registry in ["registry.terraform.io", "registry.opentofu.org"] {
            let plugin = folder.path().join(format!(
                "mirror/{registry}/fairmazon/fairmazon/{0}/{1}/terraform-provider-fairmazon_v{0}",
                env!("CARGO_PKG_VERSION"),
                platform()
            ));
            assert_eq!(fs::read_to_string(plugin).unwrap(), "a program");
        }
    }
}
