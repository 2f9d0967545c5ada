//! What is committed beside the source says what the source says: the definitions, their descriptions, the README's
//! table of settings, the tables of notices, metrics, alerts and logs.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

mod support;

#[path = "documents/consumers.rs"]
mod consumers;
#[path = "documents/guides.rs"]
mod guides;
#[path = "documents/image.rs"]
mod image;
#[path = "documents/limits.rs"]
mod limits;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use serde_json::Value;
use virtual_account_operator::api::{NoticeKind, crds};
use virtual_account_operator::config::Cli;
use virtual_account_operator::notify::Medium;

#[path = "documents/logs.rs"]
mod logs;
#[path = "documents/monitoring.rs"]
mod monitoring;
#[path = "monitoring/promtool.rs"]
mod promtool;

const NOTICES: &str = "docs/notifications/README.md";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows of a document's table with this first header: the cells, without backticks.
fn rows(document: &str, first_header: &str) -> Vec<Vec<String>> {
    let document = read(document);
    let table = document.split(&format!("| {first_header} |")).nth(1).expect("the table exists");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()).collect()
}

#[test]
fn every_field_has_a_description() {
    fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                missing.push(path.clone());
            }
            walk(&path, field, missing);
            walk(&path, &field["items"], missing);
        }
    }
    let mut missing = Vec::new();
    for crd in crds() {
        let name = crd.spec.names.singular.clone().unwrap();
        let crd = serde_json::to_value(&crd).unwrap();
        walk(&name, &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut missing);
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    let printed = Command::new(env!("CARGO_BIN_EXE_virtual-account-operator")).arg("crd").output().unwrap();
    let files: Vec<String> = crds().iter().map(|crd| format!("{}.yaml", crd.spec.names.plural)).collect();
    let listed: Vec<String> =
        read("crds/kustomization.yaml").lines().filter_map(|line| line.strip_prefix("- ").map(str::to_owned)).collect();
    assert_eq!(listed, files, "crds/kustomization.yaml");
    let committed: String = files.iter().map(|file| read(&format!("crds/{file}"))).collect();
    let ours = String::from_utf8(printed.stdout).unwrap();
    let difference = committed.lines().zip(ours.lines()).find(|(committed, ours)| committed != ours);
    assert!(committed == ours, "run `make crds`; first difference (committed, ours): {difference:?}");
}

#[test]
fn the_readme_lists_every_setting() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let flags = run.get_arguments().chain(command.get_arguments().filter(|flag| flag.is_global_set()));
    let expected: BTreeSet<(String, String)> = flags
        .filter_map(|flag| Some((format!("--{}", flag.get_long()?), flag.get_env()?.to_str()?.to_owned())))
        .collect();
    let rows = rows("README.md", "flag");
    let listed: BTreeSet<_> = rows.iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(listed, expected);
    for flag in run.get_arguments().filter(|flag| !flag.get_default_values().is_empty()) {
        let row = rows.iter().find(|row| row[0].trim_start_matches("--") == flag.get_long().unwrap()).unwrap();
        assert_eq!([row[2].as_str()], flag.get_default_values(), "{}", row[0]);
    }
}

#[test]
fn the_page_on_notices_lists_every_kind_and_those_told_by_default() {
    let listed: Vec<[String; 2]> =
        rows(NOTICES, "kind | default").into_iter().map(|row| [row[0].clone(), row[1].clone()]).collect();
    let told = |kind| if NoticeKind::DEFAULT.contains(kind) { "yes" } else { "no" };
    let expected = NoticeKind::ALL.each_ref().map(|kind| [kind.to_string(), told(kind).to_owned()]);
    assert_eq!(listed, expected);
}

#[test]
fn the_page_on_notices_says_of_every_kind_when_it_is_dropped() {
    let cells = rows(NOTICES, "kind | is dropped when").into_iter().map(|row| row[0].clone());
    let listed: BTreeSet<String> =
        cells.flat_map(|cell| cell.split(", ").map(str::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(listed, NoticeKind::ALL.iter().map(ToString::to_string).collect());
}

#[test]
fn the_page_on_notices_leads_to_a_page_for_every_medium() {
    let rows = rows(NOTICES, "medium");
    let fields: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(
        fields.iter().copied().collect::<BTreeSet<_>>(),
        Medium::ALL.iter().map(|medium| medium.as_str()).collect()
    );
    for (row, field) in rows.iter().zip(fields) {
        let page = row[2].split(['[', ']']).nth(1).unwrap();
        assert_eq!(row[2], format!("[{page}]({page})"));
        assert!(read(&format!("docs/notifications/{page}")).contains(&format!("\n  {field}:\n")), "{page}: {field}");
    }
}

#[test]
fn the_index_leads_to_every_page() {
    let listed: BTreeSet<String> = links("docs/README.md").into_iter().map(|(file, _)| file).collect();
    let missing: Vec<String> =
        pages("docs").into_iter().filter(|page| page != "docs/README.md" && !listed.contains(page)).collect();
    assert!(missing.is_empty(), "docs/README.md does not lead to {missing:?}");
}

/// The pages in a folder, by path; none if there is no such folder.
fn pages(folder: &str) -> Vec<String> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).into_iter().flatten();
    let paths = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "md"));
    let mut pages: Vec<String> =
        paths.map(|path| format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap())).collect();
    pages.sort();
    pages
}

/// The blocks of a language in a document.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut inside) = (Vec::<String>::new(), None);
    for line in read(document).lines() {
        let text = line.trim_start();
        match inside {
            None if text == format!("```{language}") => {
                blocks.push(String::new());
                inside = Some(line.len() - text.len());
            }
            Some(_) if text == "```" => inside = None,
            Some(indent) => {
                let block = blocks.last_mut().unwrap();
                block.push_str(line.get(indent..).unwrap_or_default());
                block.push('\n');
            }
            None => {}
        }
    }
    blocks
}

/// Where a document's links inside the checkout lead: file and heading.
fn links(document: &str) -> Vec<(String, Option<String>)> {
    let text = read(document);
    let folder = Path::new(document).parent().unwrap();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let inside = targets.filter(|target| !target.contains("://"));
    let split = inside.map(|target| match target.split_once('#') {
        Some((file, heading)) => (file, Some(heading.to_owned())),
        None => (target, None),
    });
    let path = |file: &str| match file {
        "" => document.to_owned(),
        file => folder.join(file).to_str().unwrap().to_owned(),
    };
    split.map(|(file, heading)| (path(file), heading)).collect()
}

/// The name that links give a heading: as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let mut documents = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    documents.extend(["docs", "docs/notifications", "docs/stores", "docs/runbooks"].into_iter().flat_map(pages));
    let mut headings = 0;
    for document in documents {
        for (file, heading) in links(&document) {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).exists(), "{document} leads to {file}");
            let Some(heading) = heading else { continue };
            let there = read(&file).lines().any(|line| line.starts_with('#') && anchor(line) == heading);
            assert!(there, "{document} leads to {file}#{heading}");
            headings += 1;
        }
    }
    assert!(headings > 10, "few links name a heading: are they found?");
}
