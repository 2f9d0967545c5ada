//! What the operator logs, in both formats.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::{World, rotating};

/// The first column of the table of fields.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../../docs/logs.md");
    let table = page.split("| field |").nth(1).unwrap().lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = table.map(|row| row.split('|').nth(1).unwrap());
    cells.flat_map(|cell| cell.split(',')).map(|name| name.trim().replace('`', "")).collect()
}

#[test]
fn json_lines_have_the_documented_fields_and_no_other() {
    let world = World::new("json-log");
    let given = world.ready(rotating());
    let next = world.rotate(&given, "one");
    // Posted after the line was written.
    world.cluster.wait_event(&world.ns, "cart", "Rotated");
    let log = world.operator.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let known = documented();
    for line in &lines {
        let line = line.as_object().unwrap();
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name} in {line:?}");
        }
        // Libraries have fields of their own.
        if line["target"].as_str().unwrap().starts_with("virtual_account_operator") {
            let unknown: Vec<_> = line.keys().filter(|name| !known.contains(*name)).collect();
            assert!(unknown.is_empty(), "{unknown:?} in {line:?}");
        }
    }
    let account = format!("{}/cart", world.ns);
    for (jti, reason) in [(&given.jti, "Issued"), (&next.jti, "Rotated")] {
        let told = |line: &&Value| line["account"] == *account && line["jti"] == **jti && line["reason"] == reason;
        let line = lines.iter().find(told).unwrap_or_else(|| panic!("no {reason} of {jti} in {log}"));
        assert_eq!(line["level"], "INFO");
    }
}

#[test]
fn text_lines_have_the_same_fields() {
    let plane = Plane::start();
    let operator = Operator::start(&plane, Options::flags(&["--log-format", "text"]));
    let (cluster, ns) = (Cluster::of(&plane), plane.namespace("text-log"));
    cluster.create_account(&ns, "cart", rotating());
    let account = cluster.wait_ready(&ns, "cart");
    cluster.wait_event(&ns, "cart", "Issued");
    let log = operator.log();
    let jti = account["status"]["jwtId"].as_str().unwrap();
    let fields = format!("account={ns}/cart jti=\"{jti}\" reason=\"Issued\"");
    let line = log.lines().find(|line| line.contains(&fields)).unwrap_or_else(|| panic!("no {fields} in {log}"));
    let mut words = line.split_whitespace();
    assert!(words.next().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
    assert_eq!(words.next(), Some("INFO"));
    assert_eq!(words.next(), Some("virtual_account_operator::account::controller:"));
    assert!(!log.contains('\u{1b}'), "no colours in a file");
}
