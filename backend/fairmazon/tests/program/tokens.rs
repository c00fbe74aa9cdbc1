//! Credentials, and how they end.

use crate::process::{Dev, ask, run};

#[test]
fn a_token_that_has_ended_is_called_expired() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("data"));
    let make = ["token", "create", "--role", "customer", "--name"];
    ask(&[&make[..], &["for-ever"]].concat(), &dev.environment);
    let short = [&make[..], &["short", "--lifetime-seconds", "1"]].concat();
    let secret = ask(&short, &dev.environment);
    let listed = loop {
        let listed = ask(&["token", "list"], &dev.environment);
        if listed.lines().any(|line| line.ends_with("\texpired\tshort")) {
            break listed;
        }
        assert!(listed.lines().any(|line| line.ends_with("\tvalid\tshort")), "{listed}");
    };
    assert!(listed.lines().any(|line| line.ends_with("\tvalid\tfor-ever")), "{listed}");
    let mut ended = dev.environment.clone();
    ended.insert("FAIRMAZON_TOKEN".into(), secret.trim().into());
    let refused = run(&["token", "list"], &ended);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("ended")
    );
}
