//! Writes the reference pages from the schema and the examples, in the layout that registries
//! show.
//!
//! usage: provider-docs FOLDER

mod page;
mod pages;

use std::{env, io, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return fail("Name the folder to write to: provider-docs FOLDER.");
    };
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/terraform");
    let mut written = 0_usize;
    for page in pages::all(&examples) {
        let path = folder.join(&page.path);
        let done = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) = done.and_then(|()| std::fs::write(&path, page.text)) {
            return fail(&format!("Unable to write {}: {error}.", path.display()));
        }
        written += 1;
    }
    if written == 0 { fail("The provider offers nothing to describe.") } else { ExitCode::SUCCESS }
}

fn fail(reason: &str) -> ExitCode {
    // Whoever does not listen to stderr still sees the exit status.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{reason}\n"));
    ExitCode::FAILURE
}
