//! The same of machines: somebody is killed while one is defined, started, ended or undefined.

use super::*;

/// The test below, which is also what the agent's process is.
const THIS: &str = "matrix::machines::a_machine_is_there_once_or_not_at_all_whoever_is_killed_when";
const TAKEN_BACK: &str =
    "matrix::machines::the_next_agent_takes_back_what_a_killed_one_has_lent_and_nothing_else";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Define,
    Start,
    Stop,
    Undefine,
}

/// When in a step somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The agent is about to keep the machine's user data.
    Kept,
    /// libvirt's daemon is about to write it down.
    Noted,
    /// The agent is about to make its seed.
    Seeded,
    /// QEMU is about to open a volume, and libvirt has the keys.
    Opened,
    /// Its guest runs, and libvirt's daemon is about to write that down.
    Runs,
    /// QEMU, which does nothing, is asked to end.
    Ending,
    /// The agent has found it, and libvirt has not heard of its wish.
    Found,
    /// libvirt's daemon does not answer.
    Unheard,
}

const LIFE: [(Step, &[Moment]); 4] = [
    (Step::Define, &[Moment::Kept, Moment::Noted]),
    (Step::Start, &[Moment::Seeded, Moment::Opened, Moment::Runs]),
    (Step::Stop, &[Moment::Ending, Moment::Unheard]),
    (Step::Undefine, &[Moment::Found, Moment::Unheard]),
];

impl Moment {
    /// Whether the killer's victim has to do with it.
    fn concerns(self, killed: Killed) -> bool {
        match killed {
            Killed::Qemu => matches!(self, Self::Opened | Self::Runs | Self::Ending),
            // What it has asked for is done at some time afterwards, which nobody hears of.
            Killed::Agent => self != Self::Unheard,
            Killed::Libvirt | Killed::Host => true,
        }
    }

    /// Who opens what at this moment.
    fn is_it(self, lab: &Lab, agent: &Agent) -> impl FnMut(&Opened) -> bool + use<> {
        let (is_agent, id) = (agent.is(), instance(1).to_string());
        let (new, xml_new) = (format!("{id}.new"), format!("{id}.xml.new"));
        let (seeds, kept) = (lab.consoles.join("seeds"), lab.consoles.join("user-data"));
        let [boot, _] = lab.files_of(1);
        let asked = lab.asking("cont");
        move |opened| match self {
            Self::Kept => is_agent(opened) && opened.path == kept.join(&new),
            Self::Noted => opened.is_named(&xml_new) && opened.is_by("libvirtd"),
            Self::Seeded => is_agent(opened) && opened.path == seeds.join(&new),
            Self::Opened => opened.path == boot && opened.is_by("qemu-system"),
            Self::Runs => opened.is_named(&xml_new) && opened.is_by("libvirtd") && asked(),
            Self::Found => is_agent(opened) && opened.path == kept.join(&id),
            Self::Ending | Self::Unheard => false,
        }
    }

    /// Begins the step, and returns at this moment of it.
    async fn of(self, step: Step, lab: &mut Lab, agent: &mut Agent) -> Middle {
        let word = format!("{step:?}");
        match self {
            Self::Unheard => {
                lab.run("kill -STOP $(pidof libvirtd)");
                agent.tell(&word);
                Middle::LIBVIRT
            }
            Self::Ending => {
                lab.stop_guest(instance(1));
                agent.tell(&word);
                // The signal waits for it: bit 15 of those that do. One that has ended is not waited for.
                let pid = format!("pid=$(cat /run/libvirt/qemu/{}.pid)", instance(1));
                let waits = "until grep -q 'ShdPnd:.*[4-7c-f]...$' /proc/$pid/status";
                lab.run(&format!("{pid} && {waits}; do [ -e /proc/$pid ] || break; done"));
                lab.run("[ -e /proc/$pid ]");
                Middle::QEMU
            }
            _ => {
                let [storage, definitions, running] = [
                    lab.pool().join(CLASS),
                    lab.folder.join("etc/qemu"),
                    lab.inside("/run/libvirt/qemu"),
                ];
                let beside = ["seeds", "user-data"].map(|name| lab.consoles.join(name));
                let folders = match self {
                    Self::Runs => vec![running],
                    Self::Noted => vec![definitions],
                    Self::Opened => vec![storage],
                    _ => beside.to_vec(),
                };
                let gate = Gate::over(&folders, self.is_it(lab, agent));
                agent.tell(&word);
                Middle::Held(gate.held(&format!("{self:?} of {step:?}")).await)
            }
        }
    }
}

/// What an agent does for a step, each time that it is told to.
async fn act(host: &QemuHost, word: &str) -> Result<()> {
    let id = instance(1);
    match word {
        "Look" => host.inventory().await.map(drop),
        "Define" => {
            // As an agent does: a host that has lost power has no user data.
            let marks = host.machine(id).await?.map(|had| had.marks);
            host.define(&machine(), marks.unwrap_or_default()).await
        }
        "Start" => host.start(id).await,
        "Stop" => match host.force_stop(id).await {
            Err(HypervisorError::NotFound { .. }) => Ok(()),
            other => other,
        },
        "Undefine" => host.undefine(id).await,
        other => panic!("{other}"),
    }
}

/// All files and folders that are there of machines, but for what is libvirt's own.
fn left(lab: &mut Lab) -> Vec<String> {
    let places = "$consoles $folder/etc/qemu /run/libvirt/qemu /var/lib/libvirt/qemu $folder/moves \
                  $folder/storage/.left";
    let found = lab.run(&format!("find {places} -path '*{}*' | sort", instance(1)));
    let shown = |path: &str| {
        let path = path.replace(&instance(1).to_string(), "ID");
        let parts: Vec<_> = path.rsplit('/').take(2).collect();
        format!("{}/{}", parts[1], parts[0])
    };
    found.lines().map(shown).collect()
}

/// That the machine is there once, defined or running, or not at all; and nothing else of it.
fn is_as_after(step: Step, lab: &mut Lab, case: &str) {
    let id = instance(1).to_string();
    let (defined, runs) = (step != Step::Undefine, step == Step::Start);
    let count = |is: bool| if is { vec![id.as_str()] } else { Vec::new() };
    let domains = lab.run("virsh -q list --all --name");
    assert_eq!(domains.split_whitespace().collect::<Vec<_>>(), count(defined), "{case}");
    let running = lab.run("virsh -q list --name");
    assert_eq!(running.split_whitespace().collect::<Vec<_>>(), count(runs), "{case}");
    let processes = lab.run("pidof qemu-system-x86_64 || true");
    assert_eq!(processes.split_whitespace().count(), usize::from(runs), "{case}");
    assert_eq!(lab.run("virsh -q secret-list").trim(), "", "{case}");
    assert_eq!(
        lab.volume_files(),
        [1, 2].map(|number| format!("{}.qcow2", volume(number))),
        "{case}"
    );
    let left = left(lab);
    let has = |name: &str| left.iter().any(|each| each == name);
    assert!(!left.iter().any(|name| name.ends_with(".new")), "{case}: {left:?}");
    if !defined {
        assert_eq!(left, [] as [String; 0], "{case}");
        return;
    }
    assert!(has("qemu/ID.xml") && has("user-data/ID"), "{case}: {left:?}");
    assert_eq!(has("qemu/ID.pid"), runs, "{case}: {left:?}");
}

#[tokio::test]
async fn a_machine_is_there_once_or_not_at_all_whoever_is_killed_when() {
    if let Some(folder) = agent_process::folder() {
        return agent_process::serve(&folder, act).await;
    }
    let mut lab = Lab::start();
    let host = started(&lab, MachineSpec::clone(&machine())).await;
    says(&host, instance(1), "GUEST-WHOLE vdb").await;
    drop(host);
    let mut agent = Agent::start(&lab, THIS);
    let begin = Instant::now();
    for killed in KILLED {
        agent.does("Stop");
        agent.does("Undefine");
        for (step, moments) in LIFE {
            let word = format!("{step:?}");
            for moment in moments.iter().filter(|moment| moment.concerns(killed)) {
                let at = begin.elapsed().as_secs();
                eprintln!("{killed:?} is killed in {step:?}, {moment:?}, {at} s");
                // From where the step before has left it.
                let before: &[&str] = match step {
                    Step::Define | Step::Undefine => &[],
                    Step::Start => &["Define", "Stop"],
                    Step::Stop => &["Define", "Start"],
                };
                before.iter().for_each(|word| agent.does(word));
                let middle = moment.of(step, &mut lab, &mut agent).await;
                agent = killed.strikes(&mut lab, agent, middle, THIS);
            }
            if step != Step::Undefine {
                agent.does("Define");
            }
            agent.does(&word);
            agent.does(&word);
            is_as_after(step, &mut lab, &format!("{killed:?} was killed in {step:?}"));
        }
    }
    agent.does("Define");
    agent.does("Start");
    let said = says(&lab.host(), instance(1), "GUEST-WHOLE vdb").await;
    assert!(!said.contains("GUEST-FAILED"), "{said}");
    drop(agent);
    let secrets = [vec![SECRET.into()], forms(&crate::lab::key_bytes(2))].concat();
    assert_eq!(files_with(&lab.folder, &secrets), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn the_next_agent_takes_back_what_a_killed_one_has_lent_and_nothing_else() {
    if let Some(folder) = agent_process::folder() {
        return agent_process::serve(&folder, act).await;
    }
    let mut lab = Lab::start();
    let host = started(&lab, MachineSpec::clone(&machine())).await;
    host.force_stop(instance(1)).await.unwrap();
    drop(host);
    lab.run(
        "echo \"<secret ephemeral='yes'><usage type='volume'><volume>/of/others</volume></usage>\
         </secret>\" >secret.xml && virsh secret-define secret.xml",
    );
    let usages = |lab: &mut Lab| {
        let listed = lab.run("virsh -q secret-list");
        let mut usages: Vec<_> = listed
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .map(str::to_owned)
            .collect();
        usages.sort();
        usages
    };
    let mut agent = Agent::start(&lab, TAKEN_BACK);
    agent.does("Look");
    let middle = Moment::Opened.of(Step::Start, &mut lab, &mut agent).await;
    let lent = [1, 2].map(|number| format!("fairmazon/{}", volume(number)));
    assert_eq!(usages(&mut lab), [&["/of/others".to_owned()][..], &lent].concat());
    drop(agent);
    assert_eq!(usages(&mut lab).len(), 3, "libvirt keeps them");
    let mut agent = Agent::start(&lab, TAKEN_BACK);
    agent.does("Look");
    assert_eq!(usages(&mut lab), ["/of/others"]);
    middle.goes_on(&mut lab);
    agent.does("Start");
    says(&lab.host(), instance(1), "GUEST-WHOLE vdb").await;
    assert_eq!(usages(&mut lab), ["/of/others"]);
}
