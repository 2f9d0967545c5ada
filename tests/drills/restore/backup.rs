//! A backup of objects, and how a tool makes them again: by the rules of Velero.

use serde_json::{Value, json};
use virtual_account_operator::token::SECRET_NAME;

use crate::support::cluster::{account_path, secret_path};
use crate::support::operator::NAMESPACE;
use crate::world::{APPS, World};

/// What a backup tool brings along.
#[derive(Clone, Copy, Default)]
pub(super) struct Brought {
    pub(super) status: bool,
    pub(super) owners: bool,
    /// The annotation `virtualaccounts.dev/adopt`, that somebody adds.
    pub(super) consent: bool,
}

/// What a backup holds.
pub(super) struct Backup {
    ring: Value,
    accounts: Vec<Value>,
    secrets: Vec<Value>,
}

impl Backup {
    pub(super) fn of(world: &World) -> Self {
        let ring = world.cluster.find(&secret_path(NAMESPACE, SECRET_NAME)).expect("the ring exists");
        let labelled = format!("/api/v1/namespaces/{APPS}/secrets?labelSelector=virtualaccounts.dev/account");
        let secrets = world.cluster.find(&labelled).expect("a list")["items"].as_array().cloned().unwrap_or_default();
        Self { ring, accounts: world.cluster.accounts(APPS), secrets }
    }

    pub(super) fn restore_ring(&self, world: &World) {
        let ring = stripped(&self.ring, false);
        world.cluster.create(&format!("/api/v1/namespaces/{NAMESPACE}/secrets"), &ring);
    }

    /// The Secret, then the account, then its status: in the order of Velero.
    pub(super) fn restore(&self, world: &World, name: &str, brought: Brought) {
        let named = |objects: &[Value], name: &str| {
            let found = objects.iter().find(|object| object["metadata"]["name"] == name).cloned();
            found.unwrap_or_else(|| panic!("no {name} in the backup"))
        };
        // A list leaves out what its items are.
        let mut secret = stripped(&named(&self.secrets, &format!("{name}-token")), brought.owners);
        (secret["apiVersion"], secret["kind"]) = (json!("v1"), json!("Secret"));
        world.cluster.create(&format!("/api/v1/namespaces/{APPS}/secrets"), &secret);
        let backup = named(&self.accounts, name);
        let mut account = stripped(&backup, brought.owners);
        if brought.consent {
            account["metadata"]["annotations"]["virtualaccounts.dev/adopt"] = json!("true");
        }
        let path = account_path(APPS, name);
        let mut created = world.cluster.create(path.rsplit_once('/').expect("a path").0, &account);
        if brought.status {
            created["status"] = backup["status"].clone();
            world.cluster.replace(&format!("{path}/status"), &created);
        }
    }
}

/// An object as Velero makes it again.
fn stripped(object: &Value, owners: bool) -> Value {
    let mut object = object.clone();
    object.as_object_mut().expect("an object").remove("status");
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
        metadata.remove(field);
    }
    if !owners {
        metadata.remove("ownerReferences");
    }
    object["metadata"]["labels"]["velero.io/restore-name"] = json!("drill");
    object
}
