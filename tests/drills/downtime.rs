//! What changes while no operator runs is found by the next one, not by the next rotation.

use std::time::Duration;

use serde_json::json;

use crate::sound::wait_sound;
use crate::support::cluster::{current, entries, secret_path, token};
use crate::world::{APPS, World};

const ALLOWED: [&str; 2] = ["--allowed-audiences", "https://issuer.example.com,https://a.example.com"];

#[test]
fn what_changes_while_it_is_down_is_found_at_the_next_start() {
    let world = World::start();
    let mut operator = world.operator(&ALLOWED);
    let names = [
        "audiences",
        "requested",
        "revoked",
        "renamed",
        "secret-gone",
        "secret-edited",
        "status-gone",
        "deleted",
        "calm",
    ];
    for name in names {
        world.cluster.create_account(APPS, name, json!({}));
    }
    for name in names {
        world.cluster.wait_ready(APPS, name);
    }
    let jti = |name: &str| {
        let account = world.cluster.account(APPS, name).expect("the account exists");
        current(&account).expect("delivered").to_owned()
    };
    let held = |name: &str| token(&world.cluster.secret(APPS, &format!("{name}-token")).expect("a Secret"));
    let before: Vec<_> = names.iter().map(|name| (jti(name), held(name))).collect();
    let before = |name: &str| &before[names.iter().position(|other| *other == name).expect("one of them")];
    operator.kill();

    world.cluster.edit(APPS, "audiences", &json!({"audiences": ["https://a.example.com"]}));
    world.cluster.annotate(APPS, "requested", "virtualaccounts.dev/rotate", &json!("while-down"));
    world.cluster.edit(APPS, "revoked", &json!({"revokedJwtIds": [before("revoked").0]}));
    world.cluster.edit(APPS, "renamed", &json!({"tokenSecret": {"name": "another"}}));
    world.cluster.delete(&secret_path(APPS, "secret-gone-token"));
    world.cluster.patch(&secret_path(APPS, "secret-edited-token"), &json!({"stringData": {"token": "nonsense"}}));
    let mut wiped = world.cluster.account(APPS, "status-gone").expect("the account exists");
    wiped["status"] = json!({});
    world.cluster.replace(&format!("{}/status", crate::support::cluster::account_path(APPS, "status-gone")), &wiped);
    world.cluster.delete_account(APPS, "deleted");
    world.cluster.create_account(APPS, "created", json!({}));

    operator.revive();
    operator.wait_up();
    wait_sound(&world, &operator, Duration::from_secs(20));

    for name in ["audiences", "requested", "revoked"] {
        let account = world.cluster.account(APPS, name).expect("the account exists");
        assert_eq!(
            entries(&account).iter().filter(|entry| entry["id"] != before(name).0.as_str()).count(),
            1,
            "{name}"
        );
        assert_ne!(jti(name), before(name).0, "{name}");
    }
    assert!(!operator.accepts(&before("revoked").1));
    assert!(operator.accepts(&before("requested").1), "in its grace");
    for name in ["secret-gone", "secret-edited", "status-gone", "calm"] {
        assert_eq!((jti(name), held(name)), *before(name), "{name}: the same token, and none minted");
        let account = world.cluster.account(APPS, name).expect("the account exists");
        assert_eq!(entries(&account).len(), 1, "{name}");
    }
    assert_eq!(token(&world.cluster.secret(APPS, "another").expect("renamed")), before("renamed").1);
    assert!(world.cluster.secret(APPS, "renamed-token").is_none(), "the old name is gone");
    assert!(world.cluster.secret(APPS, "deleted-token").is_none(), "collected with its account");
    assert!(!operator.accepts(&before("deleted").1));
}
