//! The guide page of the host standard is written from the table.
//!
//! `FAIRMAZON_WRITE_GOLDEN=1 cargo nextest run -p fairmazon-host golden` writes it.

use std::{fmt::Write, fs, path::Path};

use fairmazon_host::standard::CHECKS;

const HEAD: &str = r#"---
page_title: "The host standard"
subcategory: ""
description: |-
  What a host proves before it runs machines, level by level, and how to check it.
---

# The host standard

What a host must prove, and the level from 0 to 3 that it reaches by it. Customers ask for a level with `placement.min_conformity`.

| level | what it stands for |
|---|---|
| none | Something is missing that no machine may run without. The host gets no work. |
| 0 | Guests boot, volumes are encrypted, and neither a guest's memory nor a key gets onto a disk or out of the host. Good for trying the platform and for work that may wait: guests may run in software. |
| 1 | Guests run on the processor's own virtualisation; the clock is right, the place is known, disk and network are good enough for everyday work. |
| 2 | Disk and network as of a good server with flash. |
| 3 | Disk and network as databases and applications that wait for them want it. |

**Why software emulation reaches level 0 only.** Without KVM, QEMU translates each instruction of the guest. That is slower by an order of magnitude, and QEMU's own security policy does not count software emulation as a wall around a guest. Nobody should run something next to strangers on such a host who has not chosen so. An agent chooses once, at its start, and says what in its first line: `(qemu, kvm)` or `(qemu, software emulation)`. Where a guest boots with KVM later and the agent runs guests in software, the host reaches level 0 until the agent is started again; `fairmazon host check` does not see that, as it does not ask the agent, and `fairmazon host show` does.

## Checking a host

On the host, as root and with the limits that the agent will have, before and after it joins:

```shell
fairmazon host check --storage-dir /srv/volumes --storage fast=2000 --storage standard=8000 \
  --runtime-dir /run/fairmazon --state-dir /var/lib/fairmazon-host \
  --libvirt qemu:///system --broker https://broker.example.com:8443 \
  --country DE --latitude 48.14 --longitude 11.58 --level 2
```

Each check ends with `pass`, `FAIL` or `unknown`, with what was found, and with what to do. What is not known counts as not kept: an option that is left out leaves its check unknown. The exit status is 0 when the level that was asked for (`--level`, 1 unless given) is reached, and 1 otherwise. `--json` writes the same for programs: `level` (null for none), `reached`, and `findings` with `name`, `status`, `found`, `wants`, `why`, `remedy`, `needs` and `allows`, the highest level that the finding leaves. Of the agent's `--migration-listen` and `--migration-address` it also says when no other host can reach this one (`out_of_reach`, null where one may), also when neither is given, as no machine moves to or from such a host. No level depends on it: see [Reaching other hosts](operators.md#reaching-other-hosts).

Nothing of the system is changed. To measure, files are written into the storage folder and removed: one of 64 MiB for each class folder, and a small volume. A guest of 16 MiB boots for a moment. With `--root FOLDER` the files of a system that is mounted there are read; programs, disk and network are still those of the running one.

The names of checks do not change.
"#;

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut about = "";
    for check in &CHECKS {
        if check.about != about {
            about = check.about;
            write!(page, "\n## {about}\n").unwrap();
        }
        write!(
            page,
            "\n### `{}`\n\n*Wanted {}.* {}\n\n- Why: {}\n- When it fails: {}\n",
            check.name, check.needs, check.wants, check.why, check.remedy
        )
        .unwrap();
    }
    page
}

#[test]
fn golden() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/host-standard.md");
    let now = page();
    if std::env::var_os("FAIRMAZON_WRITE_GOLDEN").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        now == golden,
        "{} is not what the table says: run with FAIRMAZON_WRITE_GOLDEN=1 and read the difference",
        path.display()
    );
}
