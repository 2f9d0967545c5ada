//! A namespace with channels, and what can be seen of its accounts' notices.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake::Certificate;
use crate::post_office::{Mail, PASSWORD, USER, office};
use crate::receiver::Receiver;
use crate::support::cluster::{Cluster, PATIENCE, account_path, condition, current, ready, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;

pub(crate) const API: &str = "/apis/virtualaccounts.dev/v1alpha1";
pub(crate) const CLUSTER: &str = "prod-eu";
/// What operators of these tests run with.
pub(crate) const FLAGS: [&str; 9] = [
    "--max-clock-skew",
    "0",
    "--minimum-rotation-interval",
    "4s",
    "--store-timeout",
    "2s",
    "--cluster-name",
    CLUSTER,
    "--allow-local-endpoints",
];

/// The one of the tests that neither kill it nor move its clock.
pub(crate) fn shared_operator() -> &'static Operator {
    static SHARED: LazyLock<Operator> = LazyLock::new(|| Operator::start(Plane::shared(), Options::flags(&FLAGS)));
    &SHARED
}

/// A namespace, with the Secrets of channels to the shared mail server and to a receiver.
pub(crate) struct World<'a> {
    pub(crate) plane: &'a Plane,
    pub(crate) cluster: Cluster,
    pub(crate) ns: String,
    pub(crate) receiver: Receiver,
}

impl World<'static> {
    /// On the shared plane, under the shared operator.
    pub(crate) fn shared(prefix: &str) -> Self {
        shared_operator();
        Self::on(Plane::shared(), prefix)
    }
}

impl<'a> World<'a> {
    pub(crate) fn on(plane: &'a Plane, prefix: &str) -> Self {
        let receiver = Receiver::start();
        let world = Self { plane, cluster: Cluster::of(plane), ns: plane.namespace(prefix), receiver };
        let ca = &Certificate::shared().pem;
        world.secret("mail", &json!({"username": USER, "password": PASSWORD, "ca": ca}));
        world.secret("hook", &json!({"secret": Receiver::signing_secret()}));
        world.secret("slack", &json!({"url": world.receiver.url("/slack")}));
        world
    }

    pub(crate) fn secret(&self, name: &str, data: &Value) {
        let secret = json!({"metadata": {"name": name}, "stringData": data});
        self.cluster.create(&format!("/api/v1/namespaces/{}/secrets", self.ns), &secret);
    }

    /// A channel that is Ready.
    pub(crate) fn channel(&self, name: &str, spec: &Value) {
        self.create_channel(name, spec);
        self.wait_channel(name, "True");
    }

    pub(crate) fn create_channel(&self, name: &str, spec: &Value) {
        let channel = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "NotificationChannel",
            "metadata": {"name": name}, "spec": spec});
        self.cluster.create(&format!("{API}/namespaces/{}/notificationchannels", self.ns), &channel);
    }

    pub(crate) fn channel_path(&self, name: &str) -> String {
        format!("{API}/namespaces/{}/notificationchannels/{name}", self.ns)
    }

    /// Waits until its condition Ready has this status.
    pub(crate) fn wait_channel(&self, name: &str, status: &str) -> Value {
        wait_for(&format!("channel {name} to be Ready={status}"), PATIENCE, || {
            let channel = self.cluster.find(&self.channel_path(name)).expect("it exists");
            if ready(&channel)["status"] == status { Ok(channel) } else { Err(channel["status"].to_string()) }
        })
    }

    /// The spec of a channel to the shared mail server: STARTTLS and a login.
    pub(crate) fn mail(&self) -> Value {
        let key = |key: &str| json!({"name": "mail", "key": key});
        json!({"email": {"host": "127.0.0.1", "port": office().port(), "from": format!("VA <va@{}>", self.domain()),
            "auth": {"usernameRef": key("username"), "passwordRef": key("password")}, "caBundle": key("ca")}})
    }

    /// The spec of a channel to the receiver.
    pub(crate) fn hook(&self) -> Value {
        json!({"allowInsecure": true, "webhook": {"url": self.receiver.url("/events"),
            "signingSecretRef": {"name": "hook", "key": "secret"}}})
    }

    /// The domain that this namespace's mails come from.
    fn domain(&self) -> String {
        format!("{}.example", self.ns)
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        office().mails(&self.domain())
    }

    /// Waits until so many mails have come, and returns all.
    pub(crate) fn wait_mails(&self, count: usize) -> Vec<Mail> {
        wait_for(&format!("{count} mails"), PATIENCE, || {
            let mails = self.mails();
            if mails.len() >= count { Ok(mails) } else { Err(format!("{mails:#?}")) }
        })
    }

    /// An account that tells these targets, once it has its first token.
    pub(crate) fn account(&self, name: &str, targets: &Value, more: &Value) -> Value {
        let mut spec = json!({"autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"},
            "ownedBy": {"team": "payments", "account": "jo"}, "notificationTargets": targets});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.cluster.create_account(&self.ns, name, spec);
        self.cluster.wait_ready(&self.ns, name)
    }

    /// Asks for a rotation and waits until it is delivered.
    pub(crate) fn rotate(&self, name: &str, request: &str) -> Value {
        let before = self.cluster.account(&self.ns, name).expect("it exists");
        self.ask(name, request);
        self.cluster.wait_successor(&self.ns, name, current(&before).expect("it has a token"))
    }

    pub(crate) fn ask(&self, name: &str, request: &str) {
        self.cluster.annotate(&self.ns, name, "virtualaccounts.dev/rotate", &json!(request));
    }

    pub(crate) fn wait(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.cluster.wait_account(&self.ns, name, what, is)
    }

    /// As [`World::wait`], for what a slow machine needs longer for.
    pub(crate) fn wait_long(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE * 4, || {
            let account = self.cluster.account(&self.ns, name).expect("it exists");
            if is(&account) { Ok(account) } else { Err(account["status"].to_string()) }
        })
    }

    /// Waits until so many notices are in the status and all are sent.
    pub(crate) fn wait_told(&self, name: &str, count: usize) -> Value {
        self.wait_long(name, &format!("{count} notices that were sent"), |account| {
            let all = notices(account);
            all.len() == count && all.iter().all(|notice| notice["state"] == "Sent")
        })
    }

    /// Waits until `Notified` has this reason; its message.
    pub(crate) fn wait_notified(&self, name: &str, reason: &str) -> String {
        let account = self.wait(name, &format!("Notified {reason}"), |account| notified(account)["reason"] == reason);
        notified(&account)["message"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn patch(&self, name: &str, change: &Value) {
        self.cluster.patch(&account_path(&self.ns, name), change);
    }
}

/// The notices in an account's status, newest first.
pub(crate) fn notices(account: &Value) -> &[Value] {
    account["status"]["notifications"].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn notified(account: &Value) -> &Value {
    condition(account, "Notified")
}

/// A target without recipients of its own.
pub(crate) fn to(channel: &str) -> Value {
    json!({"channelRef": {"name": channel}})
}

/// Long enough for what must not happen to happen.
pub(crate) const A_WHILE: Duration = Duration::from_secs(3);
