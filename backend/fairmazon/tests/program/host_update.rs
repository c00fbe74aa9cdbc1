//! What a host offers, changed after it was registered.

use crate::process::{Dev, ask, exported, run};

#[test]
fn what_is_given_changes_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _dev = Dev::start(&data);
    let operator = exported(&data.join("env.hosts"));
    let register = "host register --name mine --site muc1 --town Munich --country DE --region eu \
                    --latitude -48.1 --longitude 11.6 --vcpus 8 --memory-mib 16384 \
                    --storage fast=500 --storage standard=900 --cpu-overcommit-percent 300 \
                    --memory-overcommit-percent 150 --conformity 2 --price-percent 120 \
                    --feature confidential";
    let registered = ask(&register.split_whitespace().collect::<Vec<_>>(), &operator);
    let id = registered.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let update = |options: &str| {
        let command = ["host", "update", id];
        let options: Vec<_> = options.split_whitespace().collect();
        run(&[&command[..], &options].concat(), &operator)
    };
    let shown = || ask(&["host", "show", id], &operator);
    let of = |threads: &str, memory: &str, rest: &str| {
        format!("offered: {threads}, {memory}, {rest} % of the catalogue's price\n")
    };
    let (threads, memory) = ("8 threads sold at 300 %", "16384 MiB sold at 150 %");
    let before = shown();
    let rest = "fast 500 GiB, standard 900 GiB, confidential, 120";
    assert!(before.contains(&of(threads, memory, rest)), "{before}");

    // Each option alone: its line changes, and no other.
    for (option, old, new) in [
        ("--price-percent 90", "120 %", "90 %"),
        ("--cpu-overcommit-percent 200", "sold at 300 %", "sold at 200 %"),
        ("--memory-overcommit-percent 100", "sold at 150 %", "sold at 100 %"),
        ("--vcpus 16", "8 threads", "16 threads"),
        ("--memory-mib 32768", "16384 MiB", "32768 MiB"),
        ("--storage fast=700", "fast 500 GiB", "fast 700 GiB"),
        ("--storage standard=0", ", standard 900 GiB", ""),
        ("--no-features", ", confidential", ""),
        ("--feature confidential", " GiB, 90", " GiB, confidential, 90"),
        ("--conformity 1", "level 2", "level 1"),
        ("--schedulable false", "state: silent", "state: silent, closed for new machines"),
        ("--schedulable true", ", closed for new machines", ""),
        ("--name other", "(mine)", "(other)"),
        ("--site muc2", "place: muc1", "place: muc2"),
        ("--town Garching", "Munich", "Garching"),
        ("--country FR", "DE", "FR"),
        ("--region us", "FR, eu", "FR, us"),
        ("--latitude 48.2", "(-48.1, 11.6)", "(48.2, 11.6)"),
        ("--longitude -11.7", "(48.2, 11.6)", "(48.2, -11.7)"),
    ] {
        let before = shown();
        let changed = update(option);
        assert!(changed.status.success(), "{option}: {changed:?}");
        let now = shown();
        assert_eq!(String::from_utf8_lossy(&changed.stdout), now, "what it is then is shown");
        assert_eq!(now, before.replace(old, new), "{option}");
        assert_ne!(now, before, "{option}");
    }
    let nothing = update("");
    assert!(!nothing.status.success() && String::from_utf8_lossy(&nothing.stderr).contains("--"));
    let refused = update("--price-percent 0");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("unable to change the host"), "{said}");
}
