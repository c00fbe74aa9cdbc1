//! A folder with a configuration, and the client's commands in it.
//!
//! Owns: the copy of an example, the saved plan, the environment. Refuses to touch the original.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    Binaries, Cli, Ended, Environment, Failure, Outcome, Plan, Running, State, cli, repository,
};

/// The file that plans are saved to.
const PLAN_FILE: &str = "saved.tfplan";

/// A working folder of one client against one backend.
pub struct Workspace {
    cli: Cli,
    home: TempDir,
    folder: PathBuf,
    configuration: PathBuf,
    environment: Environment,
}

impl Workspace {
    /// An initialised copy of `examples/terraform/NAME`.
    ///
    /// # Errors
    /// When the example is missing or `init` fails.
    pub fn example(name: &str, cli: &Cli, environment: &Environment) -> Outcome<Self> {
        let workspace = Self::empty(cli, environment)?;
        let original = repository().join("examples/terraform").join(name);
        copy_files(&original, &workspace.folder)?;
        workspace.init()?;
        Ok(workspace)
    }

    /// An initialised folder with `main` as its configuration, the provider's block added.
    ///
    /// # Errors
    /// When `init` fails.
    pub fn inline(main: &str, cli: &Cli, environment: &Environment) -> Outcome<Self> {
        let workspace = Self::empty(cli, environment)?;
        workspace.write("provider.tf", PROVIDER)?;
        workspace.write("main.tf", main)?;
        workspace.init()?;
        Ok(workspace)
    }

    fn empty(cli: &Cli, environment: &Environment) -> Outcome<Self> {
        let home = tempfile::tempdir().map_err(Failure::file("create", "a working folder"))?;
        let folder = home.path().join("work");
        fs::create_dir(&folder).map_err(Failure::file("create", &folder))?;
        let configuration = Binaries::find()?.mirror(home.path())?;
        let environment = environment.clone();
        Ok(Self { cli: cli.clone(), home, folder, configuration, environment })
    }

    /// Where the configuration is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder beside the configuration, for what must not be seen as a part of it.
    pub fn beside(&self) -> &Path {
        self.home.path()
    }

    /// Sets a variable for every further run.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    /// Has every further run read this file as the client's own settings.
    pub fn configure_client(&mut self, file: &Path) {
        file.clone_into(&mut self.configuration);
    }

    /// Writes (or overwrites) a file of the configuration.
    ///
    /// # Errors
    /// `File` when it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Outcome {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(Failure::file("write", path))
    }

    /// Reads a file of the working folder.
    ///
    /// # Errors
    /// `File` when it cannot be read.
    pub fn read(&self, name: &str) -> Outcome<String> {
        let path = self.folder.join(name);
        fs::read_to_string(&path).map_err(Failure::file("read", path))
    }

    /// A command with these arguments, for those who want to run it in their own way.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.here(self.cli.command());
        command.args(arguments);
        command
    }

    /// Runs a shell script as a user would in the folder: `terraform` in it is the client.
    ///
    /// # Errors
    /// `Start` when there is no shell.
    pub fn script(&self, text: &str) -> Outcome<Ended> {
        let shell = Path::new("sh");
        let script = format!("terraform() {{ \"$CLIENT\" \"$@\"; }}\n{text}");
        let output = self
            .here(cli::command(shell))
            .args(["-eu", "-c", &script])
            .env("CLIENT", &self.cli.program)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Failure::Start { program: shell.into(), source })?;
        Ok(Ended::new(&[text], &output))
    }

    fn here(&self, mut command: Command) -> Command {
        command
            .current_dir(&self.folder)
            .envs(&self.environment)
            .env("TF_CLI_CONFIG_FILE", &self.configuration);
        command
    }

    /// Runs one command to its end.
    ///
    /// # Errors
    /// `Start` when the client cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Outcome<Ended> {
        let output = self
            .command(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Failure::Start { program: self.cli.program.clone(), source })?;
        Ok(Ended::new(arguments, &output))
    }

    /// Starts one command and gives it back while it runs.
    ///
    /// # Errors
    /// `Start` when the client cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Outcome<Running> {
        Running::start(&mut self.command(arguments))
    }

    fn init(&self) -> Outcome<Ended> {
        self.run(&["init", "-input=false", "-no-color"])?.ok()
    }

    /// Plans and reads the plan; `more` are arguments of `plan`.
    ///
    /// # Errors
    /// When the plan fails or cannot be read.
    pub fn plan(&self, more: &[&str]) -> Outcome<Plan> {
        self.try_plan(more)?.ok()?;
        let shown = self.run(&["show", "-json", "-no-color", PLAN_FILE])?.ok()?;
        Plan::parse(&shown.stdout)
    }

    /// Plans, and gives what was said, whether it failed or not.
    ///
    /// # Errors
    /// `Start` when the client cannot be started.
    pub fn try_plan(&self, more: &[&str]) -> Outcome<Ended> {
        let out = format!("-out={PLAN_FILE}");
        let mut arguments = vec!["plan", "-input=false", "-no-color", &out];
        arguments.extend(more);
        self.run(&arguments)
    }

    /// Applies the last plan.
    ///
    /// # Errors
    /// When the apply fails.
    pub fn apply_saved(&self) -> Outcome<Ended> {
        self.run(&["apply", "-input=false", "-no-color", PLAN_FILE])?.ok()
    }

    /// Plans and applies in one go.
    ///
    /// # Errors
    /// When the apply fails.
    pub fn apply(&self, more: &[&str]) -> Outcome<Ended> {
        self.try_apply(more)?.ok()
    }

    /// Plans and applies, and gives what was said, whether it failed or not.
    ///
    /// # Errors
    /// `Start` when the client cannot be started.
    pub fn try_apply(&self, more: &[&str]) -> Outcome<Ended> {
        let mut arguments = vec!["apply", "-input=false", "-no-color", "-auto-approve"];
        arguments.extend(more);
        self.run(&arguments)
    }

    /// Destroys everything.
    ///
    /// # Errors
    /// When the destroy fails.
    pub fn destroy(&self) -> Outcome<Ended> {
        self.try_destroy()?.ok()
    }

    /// Destroys, and gives what was said, whether it failed or not.
    ///
    /// # Errors
    /// `Start` when the client cannot be started.
    pub fn try_destroy(&self) -> Outcome<Ended> {
        self.run(&["destroy", "-input=false", "-no-color", "-auto-approve"])
    }

    /// The state as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn state(&self) -> Outcome<State> {
        State::parse(&self.run(&["show", "-json", "-no-color"])?.ok()?.stdout)
    }

    /// A plan must change nothing.
    ///
    /// # Errors
    /// `Unexpected` with what it would change.
    pub fn expect_no_changes(&self) -> Outcome {
        let plan = self.plan(&[])?;
        if plan.is_empty() {
            return Ok(());
        }
        Err(Failure::Unexpected(format!(
            "a second plan must be empty, it has {:?} and outputs {}",
            plan.actions(),
            plan.document()["output_changes"]
        )))
    }
}

/// The block that every inline configuration needs.
const PROVIDER: &str = r#"terraform {
  required_providers {
    fairmazon = {
      source = "fairmazon/fairmazon"
    }
  }
}
"#;

/// Copies the files of a folder and its subfolders, but not what a client left there.
fn copy_files(from: &Path, to: &Path) -> Outcome {
    for entry in fs::read_dir(from).map_err(Failure::file("read", from))? {
        let entry = entry.map_err(Failure::file("read", from))?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(".terraform")
            || name.to_string_lossy().contains("tfstate")
        {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if source.is_dir() {
            fs::create_dir(&target).map_err(Failure::file("create", &target))?;
            copy_files(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(Failure::file("copy", &source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_client_are_not_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("module")).unwrap();
        for name in ["main.tf", "module/a.tf", "terraform.tfstate", ".terraform.lock.hcl"] {
            fs::write(from.path().join(name), "x").unwrap();
        }
        copy_files(from.path(), to.path()).unwrap();
        assert!(to.path().join("main.tf").exists() && to.path().join("module/a.tf").exists());
        assert!(!to.path().join("terraform.tfstate").exists());
        assert!(!to.path().join(".terraform.lock.hcl").exists());
    }
}
