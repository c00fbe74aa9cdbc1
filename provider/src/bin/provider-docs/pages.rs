//! Which pages there are, and what each says beside the schema.

use std::{fs, path::Path};

use terraform_provider_fairmazon::{Fairmazon, Process};
use tfplugin::{Provider as _, Schema, Signature};

use crate::page::{Page, Writer, type_name};

/// Attributes and more that the design has and this version has not: told, so that nobody looks
/// for them.
const NOT_YET: [(&str, &str); 5] = [
    (
        "provider",
        "The resources `fairmazon_standby_pair`, `fairmazon_network`, `fairmazon_billing_account`, \
         `fairmazon_host_offer` and `fairmazon_ssh_key`; the data sources `fairmazon_account`, \
         `fairmazon_usage`, `fairmazon_invoice`, `fairmazon_price_book` and \
         `fairmazon_usage_proof`; the functions `verify_usage_proof` and `estimate_cost`; the \
         ephemeral resources `fairmazon_console` and `fairmazon_volume_key`; the action \
         `fairmazon_failover`. What was used is told by `fairmazon usage`, prices by every \
         plan, and a volume's key is had with `fairmazon key fetch` and `fairmazon key passphrase`.",
    ),
    (
        "fairmazon_instance",
        "`networks`, `ssh_command` and `host_fingerprint`, which need the overlay network or the \
         relay, and `user_data_wo`, which needs a seal for user data as volume keys have one: what \
         is in `user_data` can be read by the platform.",
    ),
    ("fairmazon_token", "Renewal: a token's lifetime has to cover the run."),
    ("fairmazon_reboot", "The action `fairmazon_failover`."),
    (
        "fairmazon_migrate",
        "A declarative twin: no attribute asks for a move to whichever host. A client without \
         actions, such as OpenTofu, moves a machine by a `placement` that its host does not obey.",
    ),
];

/// All pages, with the examples that are found.
pub(crate) fn all(examples: &Path) -> Vec<Page> {
    let provider = Fairmazon::new(Process {
        env: |_| None,
        working_directory: std::path::PathBuf::new(),
        name: "docs".to_owned(),
        session: None,
    });
    let offers = provider.offers();
    let read = |path: String| fs::read_to_string(examples.join(path)).ok();
    let mut pages =
        vec![index(&provider.schema(), read("provider/provider.tf".to_owned()).as_deref())];
    for (name, schema, _) in offers.resources() {
        let mut page = begin("resources", name, " (Resource)", schema.description());
        page.example(
            "Example",
            "terraform",
            read(format!("resources/{name}/resource.tf")).as_deref(),
        );
        finish(&mut page, name, &schema);
        let import = read(format!("resources/{name}/import.sh"));
        page.example("Import", "shell", import.as_deref());
        page.part(
            "Or with an `import` block, by `id` or by `identity = { id = \"…\" }`. A plan after \
             that is empty when the configuration says what is there.",
        );
        if let Some(unseen) = unseen_by_import(&schema) {
            page.part(&unseen);
        }
        pages.push(page.finish());
    }
    for (name, schema) in offers.data_sources() {
        let mut page = begin("data-sources", name, " (Data Source)", schema.description());
        let example = read(format!("data-sources/{name}/data-source.tf"));
        page.example("Example", "terraform", example.as_deref());
        finish(&mut page, name, &schema);
        pages.push(page.finish());
    }
    for (name, schema) in offers.ephemerals() {
        let kind = " (Ephemeral Resource)";
        let mut page = begin("ephemeral-resources", name, kind, schema.description());
        let example = read(format!("ephemeral-resources/{name}/ephemeral-resource.tf"));
        page.example("Example", "terraform", example.as_deref());
        finish(&mut page, name, &schema);
        pages.push(page.finish());
    }
    for (name, schema) in offers.lists() {
        let mut page = begin("list-resources", name, " (List Resource)", schema.description());
        let example = read(format!("list-resources/{name}/list-resource.tfquery.hcl"));
        page.example("Example", "terraform", example.as_deref());
        page.attributes(schema.body());
        pages.push(page.finish());
    }
    for (name, schema) in offers.actions() {
        let mut page = begin("actions", name, " (Action)", schema.description());
        let example = read(format!("actions/{name}/action.tf"));
        page.example("Example", "terraform", example.as_deref());
        finish(&mut page, name, &schema);
        pages.push(page.finish());
    }
    for (name, signature) in offers.functions() {
        let example = read(format!("functions/{name}/function.tf"));
        pages.push(function(name, &signature, example.as_deref()));
    }
    pages
}

/// What an import can't find out, so that a plan after it may not be empty.
fn unseen_by_import(schema: &Schema) -> Option<String> {
    const NAMES: [&str; 5] =
        ["on_image_change", "wait_for", "reboot_trigger", "final_snapshot", "timeouts"];
    let there = |name: &&str| schema.attributes().iter().any(|it| it.name() == *name);
    let mut names: Vec<_> =
        NAMES.iter().filter(|name| there(name)).map(|name| format!("`{name}`")).collect();
    if there(&"on_user_data_change") {
        names.push("`on_user_data_change = \"replace\"`".to_owned());
    }
    if names.is_empty() {
        return None;
    }
    Some(format!(
        "The platform does not keep what only Terraform needs: {}. After an import they stand at \
         their defaults. Where the configuration says otherwise, the first plan shows an update; \
         applying it writes the state and leaves what exists as it is.",
        names.join(", ")
    ))
}

fn begin(folder: &str, name: &str, kind: &str, description: &str) -> Writer {
    // Registries leave the provider's name out of file names.
    let file = name.strip_prefix("fairmazon_").unwrap_or(name);
    Writer::new(format!("{folder}/{file}.md"), name, kind, description)
}

fn finish(page: &mut Writer, name: &str, schema: &Schema) {
    page.attributes(schema.body());
    not_yet(page, name);
}

fn not_yet(page: &mut Writer, name: &str) {
    if let Some((_, what)) = NOT_YET.iter().find(|(of, _)| *of == name) {
        page.part(&format!("## Not there yet\n\n{what}"));
    }
}

fn index(schema: &Schema, example: Option<&str>) -> Page {
    let description = schema.description();
    let mut page = Writer::new("index.md".to_owned(), "Fairmazon Provider", "", description);
    page.example("Example", "terraform", example);
    page.attributes(schema.body());
    page.part(
        "## Environment\n\n\
         - `FAIRMAZON_ENDPOINT`, `FAIRMAZON_TOKEN`, `FAIRMAZON_CLIENT_CERTIFICATE`, \
         `FAIRMAZON_CLIENT_KEY`, `FAIRMAZON_CA_CERTIFICATE`, `FAIRMAZON_KEY_FILE`, \
         `FAIRMAZON_HOST_AUTHORITY`, `FAIRMAZON_DEFAULT_LABELS`, `FAIRMAZON_MAX_PRICE_PER_HOUR`: \
         the twins of the attributes above.\n\
         - `FAIRMAZON_STATE_SCOPE`: a name for the state that is worked on, the same in each run. \
         By default it is made of the working directory, the workspace and the backend. An apply \
         that was killed is taken up again by it without making anything twice; set it where \
         runs of one state start in different folders, or runs of different states in one.",
    );
    not_yet(&mut page, "provider");
    page.finish()
}

fn function(name: &str, signature: &Signature, example: Option<&str>) -> Page {
    let description = format!("{}\n\n{}", signature.summary(), signature.description());
    let title = format!("provider::fairmazon::{name}");
    let path = format!("functions/{name}.md");
    let mut page = Writer::new(path, &title, " (Function)", description.trim_end());
    page.example("Example", "terraform", example);
    let names: Vec<_> =
        signature.parameters().map(|(name, ty, _)| format!("{name} {}", type_name(ty))).collect();
    let result = type_name(signature.result_type());
    page.part(&format!("## Signature\n\n```text\n{name}({}) {result}\n```", names.join(", ")));
    let list: Vec<_> = signature
        .parameters()
        .map(|(name, ty, about)| format!("- `{name}` ({}) {about}", type_name(ty)))
        .collect();
    page.part(&format!("## Arguments\n\n{}", list.join("\n")));
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is offered, and what the design names beyond it.
    const DESIGNED: [&str; 30] = [
        "fairmazon_instance",
        "fairmazon_volume",
        "fairmazon_snapshot",
        "fairmazon_placement_group",
        "fairmazon_standby_pair",
        "fairmazon_billing_account",
        "fairmazon_host_offer",
        "fairmazon_network",
        "fairmazon_ssh_key",
        "fairmazon_flavors",
        "fairmazon_images",
        "fairmazon_sites",
        "fairmazon_instances",
        "fairmazon_account",
        "fairmazon_usage",
        "fairmazon_invoice",
        "fairmazon_price_book",
        "fairmazon_usage_proof",
        "fairmazon_token",
        "fairmazon_console",
        "fairmazon_volume_key",
        "fairmazon_reboot",
        "fairmazon_failover",
        "fairmazon_migrate",
        "verify_usage_proof",
        "estimate_cost",
        "parse_id",
        "is_id",
        "distance_km",
        "nearest",
    ];

    #[test]
    fn what_is_designed_is_there_or_told_to_be_missing() {
        let pages = all(Path::new("/nowhere"));
        let there = |name: &str| {
            let name = name.strip_prefix("fairmazon_").unwrap_or(name);
            pages.iter().any(|page| page.path.ends_with(&format!("/{name}.md")))
        };
        let (_, missing) = NOT_YET[0];
        for name in DESIGNED {
            let told = missing.contains(&format!("`{name}`"));
            assert_ne!(there(name), told, "{name} is there: {}", there(name));
        }
        let told = |page: &str| NOT_YET.iter().any(|(of, _)| *of == page);
        assert!(told("fairmazon_migrate") && !told("fairmazon_snapshot"));
    }
}
