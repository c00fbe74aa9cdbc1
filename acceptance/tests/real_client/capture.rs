//! What crosses a wire between hosts, and what of it can be read there.
//!
//! Owns: that a capture which missed something is a failure. Text in plain is sent over the same
//! wire when it begins and when it ends, and must be found.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use acceptance::{Failure, Outcome};

const SCRIPT: &str = include_str!("capture.py");
/// What is sent in plain text.
const FIRST: &str = "sent in plain text before all others";
const LAST: &str = "sent in plain text after all others";
/// How long the last text may take to be seen; it is sent again meanwhile.
const END_WITHIN: Duration = Duration::from_secs(60);
const SEND_EVERY: Duration = Duration::from_millis(100);

/// A capture of one interface.
pub(crate) struct Capture {
    capturing: Child,
    said: BufReader<ChildStdout>,
    file: PathBuf,
    send: Box<dyn Fn(&str) -> Outcome>,
}

impl Capture {
    /// Begins to write what crosses `interface` to a file. `python` is Python where the interface
    /// is; `send` sends a text over the wire as it is, in one packet. Needs root.
    pub(crate) fn start(
        mut python: Command,
        interface: &str,
        file: PathBuf,
        send: impl Fn(&str) -> Outcome + 'static,
    ) -> Outcome<Self> {
        let failed = |error| Failure::Unexpected(format!("python3 can't be run: {error}"));
        let mut capturing = python
            .args(["-c", SCRIPT, interface])
            .arg(&file)
            .arg(LAST)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let said = capturing.stdout.take().ok_or_else(|| Failure::Unexpected("no pipe".into()))?;
        let mut capture =
            Self { capturing, said: BufReader::new(said), file, send: Box::new(send) };
        let ready = capture.line()?;
        assert_eq!(ready, "ready", "a capture needs root");
        (capture.send)(FIRST)?;
        Ok(capture)
    }

    /// Ends it; all that has crossed the wire, nothing of which was lost.
    pub(crate) fn end(mut self) -> Outcome<Traffic> {
        let until = Instant::now() + END_WITHIN;
        while self.capturing.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > until {
                return Err(Failure::Unexpected("the capture does not see what is sent".into()));
            }
            (self.send)(LAST)?;
            std::thread::sleep(SEND_EVERY);
        }
        assert_eq!(self.line()?, "0", "packets were lost: the capture proves nothing");
        let traffic = Traffic(self.file.clone());
        for text in [FIRST, LAST] {
            assert!(traffic.holds(text)?, "{text:?} is not found: the capture proves nothing");
        }
        Ok(traffic)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.said
            .read_line(&mut line)
            .map_err(|error| Failure::Unexpected(format!("the capture can't be read: {error}")))?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // One that has ended is only waited for.
        let _ = self.capturing.kill();
        let _ = self.capturing.wait();
    }
}

/// All that has crossed a wire, in a file.
pub(crate) struct Traffic(PathBuf);

impl Traffic {
    /// How much it was, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(&self.0).map(|file| file.len()).unwrap_or_default()
    }

    /// Whether this can be read in it. grep looks: it is much of it, and tests are not optimised.
    pub(crate) fn holds(&self, text: &str) -> Outcome<bool> {
        let mut grep = Command::new("grep");
        grep.args(["--quiet", "--text", "--fixed-strings", "--", text]).arg(&self.0);
        match grep.env("LC_ALL", "C").status().map(|status| status.code()) {
            Ok(Some(0)) => Ok(true),
            Ok(Some(1)) => Ok(false),
            odd => Err(Failure::Unexpected(format!("grep in {}: {odd:?}", self.0.display()))),
        }
    }
}
