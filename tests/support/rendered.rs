//! The operator as the chart says: the chart is installed by Helm, its Deployment is read back from the API server, and
//! the words that a kubelet would start the container with are made from it.
//!
//! There are no nodes, so three things differ from a pod: both listeners get a free port of the loopback, the API server
//! is found by a kubeconfig with the ServiceAccount's token and not by the files of a pod, and a volume is a directory of
//! the plane in place of its mount path.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::helm::{Helm, chart};
use super::plane::Plane;

/// Set to 3 or 4, it makes every operator of the tests one that this Helm has installed.
const SWITCH: &str = "VAO_TEST_CHART";

/// A release of the chart.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) helm: Helm,
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// More values.
    pub(crate) values: Value,
}

impl Release {
    /// Called like the chart.
    pub(crate) fn new(helm: Helm, namespace: &str, values: Value) -> Self {
        Self { helm, name: "virtual-account-operator".into(), namespace: namespace.into(), values }
    }

    /// What [`SWITCH`] asks for, with these flags of `run` and these variables.
    pub(crate) fn asked(namespace: &str, flags: &[String], env: &[(String, String)]) -> Option<Self> {
        let helm = match std::env::var(SWITCH).ok()?.as_str() {
            "3" => Helm::Three,
            "4" => Helm::Four,
            other => panic!("{SWITCH}={other}: want 3 or 4"),
        };
        // A pod has a name of its own.
        let env = env.iter().filter(|(name, _)| name != "POD_NAME");
        let env: Vec<Value> = env.map(|(name, value)| json!({"name": name, "value": value})).collect();
        let mut values = of_flags(flags);
        values.insert("extraEnv".into(), env.into());
        // Tests know it by this name; a release of another name would give it another.
        values.insert("serviceAccount".into(), json!({"name": "virtual-account-operator"}));
        // One process stands for one replica; only one may run without election.
        values.insert("replicas".into(), 1.into());
        let mut release = Self::new(helm, namespace, values.into());
        if namespace != super::operator::NAMESPACE {
            release.name = namespace.into();
        }
        Some(release)
    }

    /// What the chart's objects are called.
    pub(crate) fn full_name(&self) -> String {
        let chart = "virtual-account-operator";
        if self.name.contains(chart) { self.name.clone() } else { format!("{}-{chart}", self.name) }
    }

    /// Installs or upgrades it; the definitions are served then. Those that another release has installed are taken over.
    pub(crate) fn install(&self, plane: &Plane) {
        self.install_from(plane, &chart());
    }

    /// The same with another chart.
    pub(crate) fn install_from(&self, plane: &Plane, chart: &str) {
        let values = plane.dir().join(format!("{}.{}.values.json", self.namespace, self.name));
        fs::write(&values, self.values.to_string()).expect("the plane's directory can be written");
        let values = values.display().to_string();
        let installed = self.helm.on(plane, &["status", &self.name, "--namespace", &self.namespace]).status.success();
        let verb: &[&str] = if installed { &["upgrade"] } else { &["install", "--create-namespace"] };
        let what = ["--take-ownership", "--values", &values, "--namespace", &self.namespace, &self.name, chart];
        self.helm.on_ok(plane, &[verb, &what].concat());
        plane.serve(&virtual_account_operator::api::yaml().expect("the definitions can be printed"));
    }

    /// Removes it.
    pub(crate) fn uninstall(&self, plane: &Plane) {
        self.helm.on_ok(plane, &["uninstall", &self.name, "--namespace", &self.namespace]);
    }

    /// Its Deployment, as the API server has it.
    pub(crate) fn deployment(&self, plane: &Plane) -> Value {
        let name = self.full_name();
        let text = plane.kubectl_ok(&["get", "deployment", &name, "-n", &self.namespace, "-o", "json"], None);
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Whose rights its pods have.
    pub(crate) fn service_account(&self, plane: &Plane) -> String {
        string(&self.deployment(plane)["spec"]["template"]["spec"]["serviceAccountName"]).to_owned()
    }

    /// What the container of its pod with this name is started with, but for the program: `NAME=value` words, and the
    /// arguments.
    pub(crate) fn container(&self, plane: &Plane, pod: &str) -> (Vec<String>, Vec<String>) {
        let deployment = self.deployment(plane);
        let spec = &deployment["spec"]["template"]["spec"];
        let [container] = array(&spec["containers"]) else { panic!("one container: {spec}") };
        assert!(container["command"].is_null(), "the image's own program is run: {container}");
        let mut env = ["VAO_PUBLIC_ADDRESS=127.0.0.1:0", "VAO_OPS_ADDRESS=127.0.0.1:0"].map(str::to_owned).to_vec();
        for variable in array(&container["env"]) {
            env.push(format!("{}={}", string(&variable["name"]), self.resolve(variable, pod)));
        }
        let mounts = self.mounts(plane, pod, spec, container);
        let argument = |argument: &Value| {
            mounts.iter().fold(string(argument).to_owned(), |text, (path, directory)| {
                text.replace(path, &directory.display().to_string())
            })
        };
        (env, array(&container["args"]).iter().map(argument).collect())
    }

    fn resolve(&self, variable: &Value, pod: &str) -> String {
        match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            None if variable["valueFrom"].is_null() => variable["value"].as_str().unwrap_or_default().to_owned(),
            Some("metadata.name") => pod.to_owned(),
            Some("metadata.namespace") => self.namespace.clone(),
            _ => panic!("no kubelet here knows {variable}"),
        }
    }

    /// The mount paths of the container, and where their files are.
    fn mounts(&self, plane: &Plane, pod: &str, spec: &Value, container: &Value) -> Vec<(String, PathBuf)> {
        let written = |mount: &Value| {
            let volume = array(&spec["volumes"]).iter().find(|volume| volume["name"] == mount["name"]);
            let secret = string(&volume.expect("a mount has a volume")["secret"]["secretName"]);
            let directory = plane.dir().join(format!("{}.{pod}.{}", self.namespace, string(&mount["name"])));
            self.write_secret(plane, secret, &directory);
            (string(&mount["mountPath"]).to_owned(), directory)
        };
        array(&container["volumeMounts"]).iter().map(written).collect()
    }

    fn write_secret(&self, plane: &Plane, name: &str, directory: &Path) {
        let text = plane.kubectl_ok(&["get", "secret", name, "-n", &self.namespace, "-o", "json"], None);
        let secret: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        fs::create_dir_all(directory).expect("the plane's directory can be written");
        for (file, content) in secret["data"].as_object().into_iter().flatten() {
            let content = STANDARD.decode(string(content)).expect("the API server sends base64");
            fs::write(directory.join(file), content).expect("the plane's directory can be written");
        }
    }
}

/// Flags of `run` as values of the chart.
fn of_flags(flags: &[String]) -> Map<String, Value> {
    let schema = fs::read_to_string(Path::new(&chart()).join("values.schema.json")).expect("the chart has a schema");
    let schema: Value = serde_json::from_str(&schema).expect("the schema is JSON");
    let mut values = Map::from_iter([("issuerUrl".into(), super::operator::ISSUER.into())]);
    let mut settings = Map::from_iter([("logFormat".into(), "json".into())]);
    let mut words = flags.iter().peekable();
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), words.next_if(|next| !next.starts_with("--")).cloned()),
        };
        let name = camel(flag);
        match name.as_str() {
            "issuerUrl" => drop(values.insert(name, value.into())),
            "watchNamespaces" => drop(values.insert(name, listed(value).into())),
            _ => {
                let kind = &schema["properties"]["settings"]["properties"][&name];
                assert!(!kind.is_null(), "the chart has no value for {flag}");
                drop(settings.insert(name, typed(kind, value)));
            }
        }
    }
    values.insert("settings".into(), settings.into());
    values
}

fn typed(kind: &Value, value: Option<String>) -> Value {
    match kind["type"].as_str() {
        Some("boolean") => (value.as_deref() != Some("false")).into(),
        Some("integer") => value.and_then(|value| value.parse::<u64>().ok()).into(),
        Some("array") => listed(value).into(),
        _ => value.into(),
    }
}

fn listed(value: Option<String>) -> Vec<String> {
    value.unwrap_or_default().split(',').map(str::to_owned).collect()
}

/// `--max-clock-skew` as `maxClockSkew`.
pub(crate) fn camel(flag: &str) -> String {
    let mut words = flag.trim_start_matches("--").split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let initial = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &initial.into_iter().chain(letters).collect::<String>()
    })
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
