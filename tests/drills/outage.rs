//! The API server goes away for a minute, is killed, loses its etcd for a moment, and comes back.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use virtual_account_operator::api::VirtualAccount;

use crate::sound::wait_sound;
use crate::support::cluster::wait_for;
use crate::support::operator::Operator;
use crate::world::{APPS, World};

const AWAY: Duration = Duration::from_mins(1);
/// After this, every change is to be done.
const CONVERGED: Duration = Duration::from_secs(30);
/// Seven watches, the Lease and the passes of twenty accounts that were interrupted share their attempts: some 40 are seen,
/// 104 to 130 would come if none did.
const ATTEMPTS_IN_20_S: usize = 60;
/// For each of six kinds a list, a watch, and four attempts that came too early.
const RECONNECTS: usize = 36;

#[test]
fn an_api_server_that_goes_away_is_waited_for() {
    let world = World::start();
    let operator = world.operator(&[]);
    // It would knock at the API server's door, too.
    world.plane.command("stop kube-controller-manager");
    for number in 0..20 {
        world.cluster.create_account(APPS, &format!("calm-{number}"), json!({}));
    }
    wait_sound(&world, &operator, CONVERGED);
    let ledgers = ledgers(&world);
    let keys = operator.jwks();

    // Stopped while some are under way.
    for number in 0..20 {
        world.cluster.create_account(APPS, &format!("caught-{number}"), json!({}));
    }
    world.plane.command("stop kube-apiserver");
    let (stopped, mark) = (Instant::now(), world.plane.audit().len());
    stays_up(&world, &operator, &keys, stopped);
    assert_eq!(operator.get_ops("/readyz").status, 503, "after a minute without the API server");
    world.plane.command("start kube-apiserver");

    world.cluster.create_account(APPS, "after", json!({}));
    world.cluster.edit(APPS, "calm-0", &json!({"tokenSecret": {"labels": {"drill": "after"}}}));
    wait_sound(&world, &operator, CONVERGED);
    wait_for("/readyz", CONVERGED, || match operator.get_ops("/readyz").status {
        200 => Ok(()),
        other => Err(other),
    });
    assert_no_storm(&world, mark, &operator);
    assert_minted_once(&world, &ledgers);

    for (number, command) in ["restart kube-apiserver", "restart etcd"].into_iter().enumerate() {
        world.plane.command(command);
        let name = format!("again-{number}");
        wait_for("the API server to take writes", CONVERGED, || {
            let account = crate::support::cluster::account(&name, json!({})).to_string();
            let output = world.plane.kubectl(&["create", "-n", APPS, "-f", "-"], Some(&account));
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        });
        wait_sound(&world, &operator, CONVERGED);
        assert_minted_once(&world, &ledgers);
    }
}

/// For the whole time it serves its keys; it says when it is not ready; and it does not hammer.
fn stays_up(world: &World, operator: &Operator, keys: &serde_json::Value, stopped: Instant) {
    let mut unready_after = None;
    let mut attempts = None;
    while stopped.elapsed() < AWAY {
        assert_eq!(operator.jwks(), *keys);
        assert_eq!(operator.get_ops("/healthz").status, 200);
        if unready_after.is_none() && operator.get_ops("/readyz").status == 503 {
            unready_after = Some(stopped.elapsed());
        }
        // Not before: while it counts, nobody looks.
        if attempts.is_none() && unready_after.is_some() && stopped.elapsed() > Duration::from_secs(35) {
            attempts = Some(count_attempts(world.plane.server(), Duration::from_secs(20)));
        }
        thread::sleep(Duration::from_millis(500));
    }
    let unready_after = unready_after.expect("not ready at some time");
    assert!((25..=45).contains(&unready_after.as_secs()), "not ready after {unready_after:?}");
    let attempts = attempts.expect("counted");
    println!("not ready after {unready_after:?}; {attempts} attempts to connect in 20 s");
    assert!((1..=ATTEMPTS_IN_20_S).contains(&attempts), "{attempts} attempts to connect in 20 s");
}

/// Counts who knocks at the API server's port, and sends them away.
fn count_attempts(server: &str, span: Duration) -> usize {
    let address = server.trim_start_matches("https://");
    let listener = TcpListener::bind(address).expect("the API server's port is free while it is stopped");
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
    let door = thread::spawn(move || {
        for connection in listener.incoming() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            counted.fetch_add(usize::from(connection.is_ok()), Ordering::Relaxed);
        }
    });
    thread::sleep(span);
    stop.store(true, Ordering::Relaxed);
    // Wakes it up.
    drop(std::net::TcpStream::connect(address));
    door.join().expect("the thread ends");
    count.load(Ordering::Relaxed)
}

/// What reconnecting cost, apart from the writes that were to be done.
fn assert_no_storm(world: &World, mark: usize, operator: &Operator) {
    let requests = world.requests_since(mark, operator);
    let reconnects = requests.iter().filter(|request| request.starts_with("list ") || request.starts_with("watch "));
    let reconnects = reconnects.count();
    println!("after the return: {} requests, {reconnects} of them lists and watches", requests.len());
    assert!(reconnects <= RECONNECTS, "{reconnects} lists and watches: {requests:?}");
    // 22 accounts had something to do: at most two reads and three writes each, and an Event or two.
    assert!(requests.len() <= RECONNECTS + 22 * 8, "{} requests: {requests:?}", requests.len());
}

/// The tokens of each account by id.
fn ledgers(world: &World) -> BTreeMap<String, Vec<String>> {
    let ids = |account: &VirtualAccount| {
        let status = account.status.clone().unwrap_or_default();
        status.jwts.into_iter().map(|entry| entry.id).collect()
    };
    world.accounts().iter().map(|(name, account)| (name.clone(), ids(account))).collect()
}

/// One token each; for those of before, the same.
fn assert_minted_once(world: &World, before: &BTreeMap<String, Vec<String>>) {
    let after = ledgers(world);
    for (name, ids) in &after {
        assert_eq!(ids.len(), 1, "{name}");
        assert!(before.get(name).is_none_or(|before| before == ids), "{name} has another token than before");
    }
}
