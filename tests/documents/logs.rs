//! The page on logs lists every field that a line can have.

use std::collections::BTreeSet;
use std::path::Path;

use super::promtool::root;
use super::rows;

/// In every line, whatever it tells.
const ALWAYS: [&str; 4] = ["level", "message", "target", "timestamp"];

#[test]
fn the_page_on_logs_lists_every_field() {
    let rows = rows("docs/logs.md", "field");
    let listed: BTreeSet<String> = rows.iter().flat_map(|row| row[0].split(", ").map(str::to_owned)).collect();
    let mut used: BTreeSet<String> = ALWAYS.map(str::to_owned).into();
    let mut lines = 0;
    for source in sources(&root().join("src")) {
        let text = std::fs::read_to_string(&source).unwrap();
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for level in ["error", "warn", "info", "debug", "trace"] {
            for call in program.split(&format!("{level}!(")).skip(1) {
                used.extend(fields(call));
                lines += 1;
            }
        }
    }
    assert!(lines > 25, "few lines: are they found?");
    assert_eq!(listed, used);
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The fields of a call of a tracing macro, from after its parenthesis: all up to the message. Values are names and calls, at
/// most a short text.
fn fields(call: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut rest = call.trim_start();
    while !rest.starts_with('"') {
        let end = end_of_argument(rest);
        let argument = rest[..end].trim();
        let name = argument.split(['=', ':']).next().unwrap().trim().trim_start_matches(['%', '?']);
        if name != "target" {
            fields.push(name.rsplit('.').next().unwrap().to_owned());
        }
        rest = rest[end..].trim_start_matches(',').trim_start();
    }
    fields
}

fn end_of_argument(text: &str) -> usize {
    let (mut depth, mut quoted) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ',' if depth == 0 => return at,
            ')' if depth == 0 => return at,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("a call without an end: {text}")
}
