//! The schema is sound, and it is what it was: others depend on every part of it.

use terraform_provider_fairmazon::{Fairmazon, Process};
use tfplugin::harness::Harness;

fn provider() -> Fairmazon {
    let process = Process {
        env: |_| None,
        working_directory: std::path::PathBuf::from("/project"),
        name: "test".to_owned(),
    };
    Fairmazon::new(process)
}

#[tokio::test]
async fn every_schema_is_sound() {
    Harness::new(provider()).check_schemas().await.unwrap();
}
