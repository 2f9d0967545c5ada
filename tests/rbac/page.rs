//! docs/rbac.md and the chart say the same.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{read, rendered};

/// A right: where, which resource of which group, under which names, which verbs.
type Right = (String, String, String, String);

/// What these roles of a rendering give, a right for each resource of a rule. The chart writes lists in one line.
fn rights(text: &str, place: impl Fn(&str, &str) -> Option<&'static str>) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for role in text.split("\n---") {
        let value = |line: &str, key: &str| line.strip_prefix(key).map(|value| value.trim().to_owned());
        let first = |key: &str| role.lines().find_map(|line| value(line, key)).unwrap_or_default();
        let Some(place) = place(&first("kind:"), &first("  name:")) else { continue };
        for rule in role.split("\n- apiGroups:").skip(1) {
            let list = |key: &str| {
                let line = rule.lines().find_map(|line| value(line, key));
                line.map(|line| line.trim_matches(['[', ']']).to_owned()).unwrap_or_default()
            };
            let group = rule.lines().next().unwrap().trim().trim_matches(['[', ']', '"']);
            for resource in list("  resources:").split(", ") {
                let (name, sub) = resource.split_once('/').map_or((resource, None), |(name, sub)| (name, Some(sub)));
                let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                let sub = sub.map(|sub| format!("/{sub}")).unwrap_or_default();
                all.insert((
                    place.to_owned(),
                    format!("{name}{group}{sub}"),
                    list("  resourceNames:"),
                    list("  verbs:"),
                ));
            }
        }
    }
    all
}

fn in_the_chart() -> BTreeSet<Right> {
    rights(&rendered(&["rbac"], &json!({})), |kind, name| match (kind, name) {
        ("ClusterRole", "virtual-account-operator") => Some("cluster"),
        ("Role", "virtual-account-operator") => Some("own"),
        _ => None,
    })
}

fn in_watched_namespaces() -> BTreeSet<Right> {
    let values = json!({"watchNamespaces": ["one"], "settings": {"clusterId": "test"}});
    rights(&rendered(&["rbac"], &values), |kind, name| match (kind, name) {
        ("Role", "virtual-account-operator-accounts") => Some("each"),
        ("Role", "virtual-account-operator") => Some("own"),
        _ => None,
    })
}

/// The rows of the table: where, resource, names, verbs, in watched namespaces.
fn rows() -> Vec<[String; 5]> {
    let page = read("docs/rbac.md");
    let table = page.split("| where | resource |").nth(1).expect("the table exists");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cell = |cell: &str| cell.trim().replace('`', "");
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect::<Vec<_>>())
        .map(|row| [0, 1, 2, 3, 4].map(|at: usize| row[at].clone()))
        .collect()
}

#[test]
fn the_table_lists_what_the_chart_gives_the_operator() {
    let listed: BTreeSet<Right> =
        rows().into_iter().map(|[place, resource, names, verbs, _]| (place, resource, names, verbs)).collect();
    assert_eq!(listed, in_the_chart());
}

#[test]
fn the_table_says_what_is_given_in_watched_namespaces() {
    let given = rows().into_iter().filter(|row| row[4] == "yes").map(|[place, resource, names, verbs, _]| {
        let place = if place == "cluster" { "each".to_owned() } else { place };
        (place, resource, names, verbs)
    });
    assert_eq!(given.collect::<BTreeSet<_>>(), in_watched_namespaces());
}

#[test]
fn every_rule_of_the_chart_has_its_reason_above_it() {
    for values in [json!({}), json!({"watchNamespaces": ["one"], "settings": {"clusterId": "test"}})] {
        let text = rendered(&["rbac"], &values);
        let lines: Vec<&str> = text.lines().collect();
        let rules = lines.iter().enumerate().filter(|(_, line)| line.starts_with("- apiGroups:"));
        let mut count = 0;
        for (at, line) in rules {
            // A second rule for the same thing, limited to a name, shares the reason of the first.
            let reason =
                lines[..at].iter().rev().find(|line| !line.starts_with("  ") && !line.starts_with("- apiGroups:"));
            assert!(reason.is_some_and(|line| line.starts_with("# ")), "line {at}: {line}");
            count += 1;
        }
        assert!(count >= 12, "{count} rules");
    }
}
