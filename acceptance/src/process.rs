//! A program that is running: its output line by line, and its end.
//!
//! Owns: the process group (nothing of it outlives this value) and the threads that read its
//! output. Refuses to wait without an end.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Failure, Outcome};

/// A started program with its whole process group.
pub struct Running {
    name: String,
    child: Child,
    group: Option<Pid>,
    lines: Receiver<String>,
    said: Vec<String>,
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts `command` in a process group of its own; both outputs are read as lines.
    ///
    /// # Errors
    /// `Start` when the program cannot be started.
    pub fn start(command: &mut Command) -> Outcome<Self> {
        let program = command.get_program().to_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| Failure::Start { program: program.clone().into(), source })?;
        let (sender, lines) = channel();
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(read_lines(stdout, sender.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(read_lines(stderr, sender));
        }
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let name = program.to_string_lossy().into_owned();
        Ok(Self { name, child, group, lines, said: Vec::new(), readers, ended: None })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that `is_it` accepts.
    ///
    /// # Errors
    /// `TooLate` after `limit`; `Unexpected` when the program ends before.
    pub fn line(
        &mut self,
        what: &str,
        limit: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> Outcome<String> {
        let until = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if is_it(&line) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::TooLate {
                        what: what.into(),
                        seconds: limit.as_secs(),
                        said: self.said.join("\n"),
                    });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Unexpected(format!(
                        "{} ended before {what}; it said:\n{}",
                        self.name,
                        self.said.join("\n")
                    )));
                }
            }
        }
    }

    /// Sends a signal to the program alone, not to what it started.
    pub fn signal(&self, signal: Signal) {
        if let (None, Some(pid)) = (self.ended, self.group) {
            // It may have ended by itself: then there is nothing to tell it.
            let _ = kill_process(pid, signal);
        }
    }

    /// Sends a signal to the program and all that it started, as a terminal's Ctrl-C does.
    pub fn signal_group(&self, signal: Signal) {
        if let (None, Some(group)) = (self.ended, self.group) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Waits until the program has ended and gives its status.
    ///
    /// # Errors
    /// `TooLate` when it has not ended after `limit`.
    pub fn end(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        let until = Instant::now() + limit;
        // The outputs close when the program ends; what it started may hold them open longer,
        // so the status is asked for between lines as well.
        loop {
            if let Some(status) = self.ended {
                return Ok(status);
            }
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            self.ended = self
                .child
                .try_wait()
                .map_err(|source| Failure::Start { program: self.name.clone().into(), source })?;
            if self.ended.is_none() && Instant::now() > until {
                return Err(Failure::TooLate {
                    what: format!("the end of {}", self.name),
                    seconds: limit.as_secs(),
                    said: self.said.join("\n"),
                });
            }
        }
    }

    /// All lines so far.
    pub fn said(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.said.push(line);
        }
        self.said.join("\n")
    }

    /// Ends the whole group at once, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

fn read_lines(from: impl Read + Send + 'static, to: Sender<String>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if to.send(text).is_err() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Running {
        Running::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_line_is_waited_for_on_either_output() {
        let mut running = shell("echo one; echo two >&2; exec sleep 60");
        assert_eq!(running.line("two", LIMIT, |line| line == "two").unwrap(), "two");
    }

    #[test]
    fn an_early_end_is_told_with_what_was_said() {
        let failure = shell("echo only this").line("a port", LIMIT, |_| false).unwrap_err();
        let text = format!("{failure:?}");
        assert!(text.contains("ended before a port") && text.contains("only this"), "{text}");
    }

    #[test]
    fn the_status_is_seen_and_the_group_dies() {
        let mut running = shell("exit 7");
        assert_eq!(running.end(LIMIT).unwrap().code(), Some(7));

        // The grandchild holds the output open: dropping returns only because it was killed too.
        let mut running = shell("sleep 1000 & echo started; wait");
        running.line("the start", LIMIT, |line| line == "started").unwrap();
        drop(running);
    }
}
