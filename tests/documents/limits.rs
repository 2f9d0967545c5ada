//! The page on limits says what schema and source say.

use serde_json::Value;
use virtual_account_operator::api::{VirtualAccount, crds};

use super::{read, rows};

const PAGE: &str = "docs/limits.md";

#[test]
fn the_page_on_limits_has_the_numbers_of_the_schema() {
    let schema = schema();
    let rows = rows(PAGE, "field | length or number");
    assert!(rows.len() > 20);
    for row in rows {
        let field = row[0].trim_end_matches(" (days)");
        if field == "metadata.name" {
            // The rule says it in words.
            let rule = schema["x-kubernetes-validations"].to_string();
            assert!(rule.contains(&format!("must have {} characters", row[1])), "{rule}");
        } else {
            assert_eq!(bounds(at(&schema, field)), row[1], "{field}");
        }
    }
}

fn schema() -> Value {
    use kube::core::CustomResourceExt as _;
    let name = VirtualAccount::crd().metadata.name;
    let crd = crds().into_iter().find(|crd| crd.metadata.name == name).unwrap();
    serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// The schema of a field: `spec.audiences[]` is what the list holds.
fn at<'a>(schema: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(schema, |schema, part| {
        let field = &schema["properties"][part.trim_end_matches("[]")];
        if part.ends_with("[]") { &field["items"] } else { field }
    })
}

fn bounds(field: &Value) -> String {
    let of = |keys: [&str; 4]| keys.iter().find_map(|key| field[*key].as_f64());
    // Days or a duration: the numbers bound the days.
    let least = of(["minimum", "minItems", "minLength", "minProperties"]);
    let most = of(["maximum", "maxItems", "maxLength", "maxProperties"]);
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (None, Some(most)) => format!("at most {most}"),
        other => format!("{other:?}"),
    }
}

/// etcd's own bound on a request, `--max-request-bytes`.
const ETCD: usize = 3 * 512 * 1024;

#[test]
fn an_account_with_everything_at_its_limit_fits_into_etcd() {
    let schema = schema();
    let most = largest("", &schema["properties"]["spec"]) + largest("", &schema["properties"]["status"]);
    println!("{most} characters");
    assert!(read(PAGE).contains("under 1.1 MB") && (1_000_000..1_100_000).contains(&most) && most < ETCD, "{most}");
}

/// The most characters that a value of this schema can have as JSON.
fn largest(name: &str, schema: &Value) -> usize {
    let bound = |key: &str| schema[key].as_u64().and_then(|bound| usize::try_from(bound).ok());
    match schema["type"].as_str() {
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let own: usize = fields.map(|(name, field)| name.len() + 4 + largest(name, field)).sum();
            let values = &schema["additionalProperties"];
            // A key is a prefix of 253 characters, a slash and a name of 63.
            own + bound("maxProperties").map_or(0, |count| count * (320 + largest(name, values)))
        }
        // Conditions are Kubernetes' own type, which bounds nothing; ours have at most 2048 characters of message.
        Some("array") if name == "conditions" => 16 * 2_500,
        Some("array") => {
            bound("maxItems").unwrap_or_else(|| panic!("{name} has no bound")) * (1 + largest(name, &schema["items"]))
        }
        Some("string") if schema["enum"].is_array() || schema["format"] == "date-time" => 32,
        Some("string") => bound("maxLength").unwrap_or_else(|| panic!("{name} has no bound")) + 2,
        _ => 20,
    }
}

#[test]
fn the_page_on_limits_has_the_numbers_of_the_source() {
    let page = read(PAGE);
    let sourced: Vec<&str> = page.lines().filter(|line| line.contains("`src/")).collect();
    let tables = page.matches("| what | limit | in the source |").count();
    assert!(tables == 4 && sourced.len() > 20, "{tables} tables, {} rows", sourced.len());
    for line in sourced {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let mut names = cells[2].split('`').skip(1).step_by(2);
        let (file, name) = (names.next().unwrap(), names.next().unwrap());
        assert_eq!(said(cells[1]), constant(file, name), "{line}");
    }
}

/// A number as people write it; times in seconds, sizes in bytes.
fn said(text: &str) -> i64 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let size = match unit {
        "" => 1,
        "KiB" => 1_024,
        "seconds" => 1,
        "minutes" => 60,
        "hours" => 3_600,
        "day" | "days" => 86_400,
        other => panic!("what is {other}?"),
    };
    number.parse::<i64>().unwrap() * size
}

/// The same of a constant in the source.
fn constant(file: &str, name: &str) -> i64 {
    let source = read(file);
    let line = source.lines().find(|line| line.contains(&format!("const {name}: "))).expect(name);
    let value = line.split_once(" = ").unwrap().1.trim_end_matches(';');
    let (kind, number) = value.trim_end_matches(')').split_once('(').unwrap_or(("", value));
    let size = match kind {
        "" | "Seconds" | "Duration::from_secs" => 1,
        "Seconds::minutes" | "Duration::from_mins" => 60,
        "Seconds::hours" => 3_600,
        "Seconds::days" => 86_400,
        other => panic!("{file} {name}: what is {other}?"),
    };
    let product: i64 = number.split('*').map(|factor| factor.trim().replace('_', "").parse::<i64>().unwrap()).product();
    product * size
}
