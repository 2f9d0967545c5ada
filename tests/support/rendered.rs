//! The operator as the chart says: the chart is installed by Helm, its Deployment is read back from the API server, and
//! the words that a kubelet would start the container with are made from it.
//!
//! There are no nodes, so three things differ from a pod: both listeners get a port of the loopback, the API server is
//! found by a kubeconfig with the ServiceAccount's token and not by the files of a pod, and a volume is a directory in
//! place of its mount path.
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
/// The Secret that has the pair of `--tls-cert` and `--tls-key`.
const PAIR: &str = "operator-tls";

/// A release of the chart.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) helm: Helm,
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// More values.
    pub(crate) values: Value,
    /// Where its public listener is, if not at a free port of the loopback.
    pub(crate) address: Option<String>,
    /// Where [`PAIR`] is mounted, for a test that changes the files there as the kubelet does.
    pub(crate) pair: Option<PathBuf>,
}

impl Release {
    /// Called like the chart.
    pub(crate) fn new(helm: Helm, namespace: &str, values: Value) -> Self {
        let name = "virtual-account-operator".to_owned();
        Self { helm, name, namespace: namespace.into(), values, address: None, pair: None }
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
        let mut release = Self::new(helm, namespace, Value::Null);
        let mut values = release.of_flags(flags);
        values.insert("extraEnv".into(), env.into());
        // Tests know it by this name; a release of another name would give it another.
        values.insert("serviceAccount".into(), json!({"name": "virtual-account-operator"}));
        // One process stands for one replica; only one may run without election.
        values.insert("replicas".into(), 1.into());
        release.values = values.into();
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
        if let Some(directory) = &self.pair {
            let [cert, key] = pair_files(directory).map(|file| file.display().to_string());
            let create =
                ["create", "secret", "tls", PAIR, "--cert", &cert, "--key", &key, "--dry-run=client", "-o=yaml"];
            let secret = plane.kubectl_ok(&create, None);
            plane.kubectl_ok(&["apply", "-n", &self.namespace, "-f", "-"], Some(&secret));
        }
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
        let address = self.address.as_deref().unwrap_or("127.0.0.1:0");
        let mut env = vec![format!("VAO_PUBLIC_ADDRESS={address}"), "VAO_OPS_ADDRESS=127.0.0.1:0".to_owned()];
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
            let files = self.secret(plane, secret);
            let directory = match &self.pair {
                Some(pair) if secret == PAIR => same(pair, &files),
                _ => write(&plane.dir().join(format!("{}.{pod}.{}", self.namespace, string(&mount["name"]))), &files),
            };
            (string(&mount["mountPath"]).to_owned(), directory)
        };
        array(&container["volumeMounts"]).iter().map(written).collect()
    }

    /// The files that a Secret is mounted as.
    fn secret(&self, plane: &Plane, name: &str) -> Vec<(String, Vec<u8>)> {
        let text = plane.kubectl_ok(&["get", "secret", name, "-n", &self.namespace, "-o", "json"], None);
        let secret: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let decoded = |content: &Value| STANDARD.decode(string(content)).expect("the API server sends base64");
        let data = secret["data"].as_object().into_iter().flatten();
        data.map(|(file, content)| (file.clone(), decoded(content))).collect()
    }

    /// Flags of `run` as values of the chart. Those of the public listener have none: the chart has its own address, and
    /// the pair comes by a Secret.
    fn of_flags(&mut self, flags: &[String]) -> Map<String, Value> {
        let schema =
            fs::read_to_string(Path::new(&chart()).join("values.schema.json")).expect("the chart has a schema");
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
                "publicAddress" => self.address = value,
                "tlsCert" | "tlsKey" => {
                    self.take_pair(Path::new(value.as_deref().unwrap_or_default()));
                    values.insert("tls".into(), json!({"secretName": PAIR}));
                }
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

    fn take_pair(&mut self, file: &Path) {
        let directory = file.parent().unwrap_or(file);
        assert!(pair_files(directory).iter().any(|known| known == file), "{} is in no such Secret", file.display());
        let taken = self.pair.get_or_insert_with(|| directory.to_owned());
        assert_eq!(taken, directory, "one Secret is mounted in one directory");
    }
}

/// Certificate and key, as a Secret of type `kubernetes.io/tls` is mounted.
fn pair_files(directory: &Path) -> [PathBuf; 2] {
    ["tls.crt", "tls.key"].map(|name| directory.join(name))
}

/// Writes files into a directory, which is returned.
fn write(directory: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    fs::create_dir_all(directory).expect("the plane's directory can be written");
    for (name, content) in files {
        fs::write(directory.join(name), content).expect("the plane's directory can be written");
    }
    directory.to_owned()
}

/// The directory, which has these files already.
fn same(directory: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (name, content) in files {
        let file = directory.join(name);
        assert!(fs::read(&file).is_ok_and(|here| here == *content), "{} is not as in the Secret", file.display());
    }
    directory.to_owned()
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
