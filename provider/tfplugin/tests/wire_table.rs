//! The compiled protocol against the table of wire facts: every row of either side
//! has its twin on the other.

use std::{collections::BTreeSet, error::Error};

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};

const TABLE: &str = include_str!("../proto/tfplugin6.tsv");
/// What go-plugin expects beside the provider's own service, in the form of the table.
const GO_PLUGIN: [&str; 19] = [
    "message\tEmpty",
    "message\tConnInfo",
    "field\tConnInfo\t1\tservice_id\tuint32",
    "field\tConnInfo\t2\tnetwork\tstring",
    "field\tConnInfo\t3\taddress\tstring",
    "field\tConnInfo\t4\tknock\tConnInfo.Knock",
    "message\tConnInfo.Knock",
    "field\tConnInfo.Knock\t1\tknock\tbool",
    "field\tConnInfo.Knock\t2\tack\tbool",
    "field\tConnInfo.Knock\t3\terror\tstring",
    "message\tStdioData",
    "field\tStdioData\t1\tchannel\tStdioData.Channel",
    "field\tStdioData\t2\tdata\tbytes",
    "enum\tStdioData.Channel\t0\tINVALID",
    "enum\tStdioData.Channel\t1\tSTDOUT",
    "enum\tStdioData.Channel\t2\tSTDERR",
    "rpc\tGRPCBroker\t\tStartStream\tConnInfo -> ConnInfo\tboth-stream",
    "rpc\tGRPCController\t\tShutdown\tEmpty -> Empty",
    "rpc\tGRPCStdio\t\tStreamStdio\tgoogle.protobuf.Empty -> StdioData\tserver-stream",
];

/// A name without the package that it is in.
fn local(name: &str) -> &str {
    ["tfplugin6.", "plugin."].iter().find_map(|own| name.strip_prefix(own)).unwrap_or(name)
}

fn row(cells: [&str; 6]) -> String {
    cells.join("\t").trim_end().to_owned()
}

fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => local(message.full_name()).to_owned(),
        Kind::Enum(values) => local(values.full_name()).to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn field_row(message: &MessageDescriptor, field: &FieldDescriptor) -> String {
    let (kind, label) = if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let key = type_name(&entry.map_entry_key_field().kind());
        let value = type_name(&entry.map_entry_value_field().kind());
        (format!("map<{key},{value}>"), String::new())
    } else {
        let oneof = field.containing_oneof();
        let label = match (&oneof, field.cardinality()) {
            (Some(oneof), _) if oneof.is_synthetic() => "optional".to_owned(),
            (Some(oneof), _) => format!("oneof:{}", oneof.name()),
            (None, Cardinality::Repeated) => "repeated".to_owned(),
            (None, _) => String::new(),
        };
        (type_name(&field.kind()), label)
    };
    let scope = local(message.full_name());
    row(["field", scope, &field.number().to_string(), field.name(), &kind, &label])
}

fn enum_rows(values: &EnumDescriptor, rows: &mut BTreeSet<String>) {
    for value in values.values() {
        rows.insert(row([
            "enum",
            local(values.full_name()),
            &value.number().to_string(),
            value.name(),
            "",
            "",
        ]));
    }
}

fn message_rows(message: &MessageDescriptor, rows: &mut BTreeSet<String>) {
    if message.is_map_entry() {
        return;
    }
    rows.insert(row(["message", local(message.full_name()), "", "", "", ""]));
    rows.extend(message.fields().map(|field| field_row(message, &field)));
    message.child_enums().for_each(|child| enum_rows(&child, rows));
    message.child_messages().for_each(|child| message_rows(&child, rows));
}

fn method_row(method: &MethodDescriptor) -> String {
    let label = match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => "",
        (false, true) => "server-stream",
        (true, false) => "client-stream",
        (true, true) => "both-stream",
    };
    let kind =
        format!("{} -> {}", local(method.input().full_name()), local(method.output().full_name()));
    let service = method.parent_service();
    row(["rpc", service.name(), "", method.name(), &kind, label])
}

fn compiled_rows(package: &str) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let pool = DescriptorPool::decode(tfplugin::proto::DESCRIPTORS)?;
    let mut rows = BTreeSet::new();
    for file in pool.files().filter(|file| file.package_name() == package) {
        file.enums().for_each(|values| enum_rows(&values, &mut rows));
        file.messages().for_each(|message| message_rows(&message, &mut rows));
        for service in file.services() {
            rows.extend(service.methods().map(|method| method_row(&method)));
        }
    }
    Ok(rows)
}

#[test]
fn the_compiled_protocol_is_the_table() -> Result<(), Box<dyn Error>> {
    let table: BTreeSet<String> =
        TABLE.lines().skip(1).map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(table.len(), TABLE.lines().count() - 1, "a row stands twice");
    let compiled = compiled_rows("tfplugin6")?;
    let missing: Vec<_> = table.difference(&compiled).collect();
    let extra: Vec<_> = compiled.difference(&table).collect();
    assert!(missing.is_empty(), "not in the protocol: {missing:#?}");
    assert!(extra.is_empty(), "not in the table: {extra:#?}");
    Ok(())
}

#[test]
fn all_thirty_six_calls_are_there() -> Result<(), Box<dyn Error>> {
    let calls = compiled_rows("tfplugin6")?.iter().filter(|row| row.starts_with("rpc\t")).count();
    assert_eq!(calls, 36);
    Ok(())
}

#[test]
fn the_services_beside_it_are_those_of_go_plugin() -> Result<(), Box<dyn Error>> {
    let expected: BTreeSet<String> = GO_PLUGIN.map(str::to_owned).into();
    assert_eq!(compiled_rows("plugin")?, expected);
    Ok(())
}
