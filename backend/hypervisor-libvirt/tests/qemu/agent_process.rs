//! The agent as a process of its own, that can be killed: the test's own program once more, which has
//! the laboratory's host and does with it what it is told.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::Result;
use fairmazon_hypervisor_libvirt::qemu::{MEMORY_INFO, QemuHost};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    gate::Opened,
    lab::{Lab, PATIENCE, give_keys, open_host},
};

/// Tells a process that it is the agent of the laboratory in this folder.
const FOLDER: &str = "FAIRMAZON_LAB";

/// Where the laboratory is, in the process of an agent; none in the test's own.
pub(crate) fn folder() -> Option<PathBuf> {
    env::var_os(FOLDER).map(PathBuf::from)
}

/// The agent's process: does what it is told on its standard input, line by line.
#[allow(clippy::print_stderr, reason = "that is how it answers")]
pub(crate) async fn serve(folder: &Path, act: impl AsyncFn(&QemuHost, &str) -> Result<()>) {
    let host = open_host(folder, Path::new(MEMORY_INFO));
    give_keys(&host).await;
    let (send, mut lines) = tokio::sync::mpsc::unbounded_channel();
    thread::spawn(move || {
        std::io::stdin().lines().map_while(|it| it.ok()).try_for_each(|it| send.send(it))
    });
    while let Some(word) = lines.recv().await {
        match act(&host, &word).await {
            Ok(()) => eprintln!("AGENT-DONE"),
            Err(error) => eprintln!("AGENT-FAILED {:?}", format!("{error:?}")),
        }
    }
}

/// A process of the agent.
pub(crate) struct Agent {
    process: Child,
    words: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Agent {
    /// Starts one, which is this test once more: that calls [`serve`] where there is a [`folder`].
    pub(crate) fn start(lab: &Lab, test: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut process = command
            .args(["--exact", test, "--nocapture"])
            .env(FOLDER, &lab.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let words = process.stdin.take().unwrap();
        let said = BufReader::new(process.stderr.take().unwrap());
        let (send, answers) = mpsc::channel();
        let answer = |line: String| line.find("AGENT-").map(|at| line[at + 6..].to_owned());
        thread::spawn(move || {
            let lines = said.lines().map_while(|line| line.ok());
            lines.filter_map(answer).try_for_each(|line| send.send(line))
        });
        Self { process, words, answers }
    }

    /// Has it do something, and does not wait for that.
    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.words, "{word}").unwrap();
    }

    /// What has become of what it was told.
    pub(crate) fn answer(&self) -> std::result::Result<(), String> {
        let answer = self.answers.recv_timeout(PATIENCE).expect("the agent answers");
        if answer == "DONE" { Ok(()) } else { Err(answer) }
    }

    /// Has it do something, again and again until that is done.
    pub(crate) fn does(&mut self, word: &str) {
        let begin = Instant::now();
        loop {
            self.tell(word);
            let Err(why) = self.answer() else { return };
            assert!(begin.elapsed() < PATIENCE, "{word}: {why}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Whether it is this process.
    pub(crate) fn is(&self) -> impl Fn(&Opened) -> bool + Send + use<> {
        let own = self.pid();
        move |opened| Pid::from_raw(opened.pid) == Some(own)
    }
}

/// Ends it as `kill -9` does, and what it has begun as its service manager does then.
impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.process.wait();
    }
}
