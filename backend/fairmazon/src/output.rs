//! What commands say: results on standard output, everything else on standard error.

use std::{
    error::Error,
    io::{self, Write},
};

/// Writes a line of a result. A reader that has gone away is no error of the command.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Says something that is no result.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes an error with its causes, each once.
pub(crate) fn error(error: &dyn Error) {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let said = source.to_string();
        if said != last {
            text.push_str(&format!("  because: {said}\n"));
        }
        last = said;
        cause = source.source();
    }
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
