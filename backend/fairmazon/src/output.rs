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

/// Writes an error with its causes.
pub(crate) fn error(error: &dyn Error) {
    let mut text = format!("error: {error}\n");
    for cause in causes(error) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// What the causes of an error say, each once.
pub(crate) fn causes(error: &dyn Error) -> impl Iterator<Item = String> {
    let mut last = error.to_string();
    std::iter::successors(error.source(), |&cause| cause.source())
        .map(ToString::to_string)
        .filter(move |said| std::mem::replace(&mut last, said.clone()) != *said)
}
