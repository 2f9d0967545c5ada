//! Three replicas, one of which writes: the leader is killed, frozen, cut off and told to go, under load. At most one
//! replica writes, the next takes over in time, and all serve the same keys.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use virtual_account_operator::api::Seconds;
use virtual_account_operator::clock;

use crate::crowd::{Crowd, FLAGS, seed};
use crate::history::{Asked, History, text};
use crate::sound::{jwks, problems, wait_sound};
use crate::support::cluster::wait_for;
use crate::support::link::Link;
use crate::support::operator::{Operator, Options};
use crate::support::plane::AuditEvent;
use crate::world::{APPS, World};

const REPLICAS: usize = 3;
const ACCOUNTS: usize = 200;
const LEASE: Duration = Duration::from_secs(4);
/// In all of this time after a leader has gone there must be another.
const HAND_OVER: Duration = Duration::from_secs(6);
/// The same after it gave the Lease up.
const GRACEFUL: Duration = Duration::from_secs(2);
/// Two of these make the accounts with the shorter interval due.
const JUMP: Seconds = Seconds::hours(7);
/// The account that tells of its rotations.
const TOLD: &str = "told";
const LEASE_PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/virtual-accounts/leases/virtual-account-operator";
/// Verifiers keep a JWKS for so long (`max-age`); all replicas see a change sooner.
const SPREAD: Duration = Duration::from_mins(1);

#[test]
fn the_leader_is_killed_again_and_again() {
    let kills = kills();
    let mut trio = Trio::start(true);
    let mut longest = Duration::ZERO;
    for round in 0..kills {
        trio.stir(round);
        let leader = trio.leader();
        trio.replicas[leader].kill();
        let took = trio.wait_other_than(leader, HAND_OVER);
        longest = longest.max(took);
        trio.crowd.stir(&trio.world, 0..=300);
        trio.replicas[leader].revive();
        trio.replicas[leader].wait_up();
        trio.keys.moved(&trio.replicas);
    }
    println!("{kills} kills of the leader, hand-over in at most {:.1} s", longest.as_secs_f32());
    trio.end();
}

#[test]
fn a_leader_that_was_frozen_writes_nothing_when_it_wakes_up() {
    let mut trio = Trio::start(false);
    for round in 0..3 {
        trio.stir(round);
        let leader = trio.leader();
        signal(&trio.replicas[leader], "STOP");
        trio.wait_other_than(leader, HAND_OVER);
        // More to do, which the frozen one has in mind, too.
        trio.crowd.stir(&trio.world, 500..=1000);
        let mark = trio.world.plane.audit().len();
        signal(&trio.replicas[leader], "CONT");
        trio.crowd.stir(&trio.world, 1500..=2000);
        let written = trio.writes_since(mark, leader);
        assert!(written.is_empty(), "after it woke up: {written:?}");
    }
    trio.end();
}

#[test]
fn a_leader_that_is_told_to_go_hands_over_at_once() {
    let mut trio = Trio::start(false);
    // A Lease that somebody deletes is made again by its holder.
    let leader = trio.leader();
    let before = trio.lease();
    trio.world.cluster.delete(LEASE_PATH);
    let made = wait_for("the Lease", HAND_OVER, || trio.world.cluster.find(LEASE_PATH).ok_or("gone"));
    assert_ne!(made["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(trio.leader(), leader, "{}", made["spec"]);
    let silent = Silent::start();
    trio.tell_by(&silent);
    for round in 0..3 {
        trio.stir(round);
        let leader = trio.leader();
        trio.request_of_told(round);
        wait_for("a message that gets no answer", Duration::from_mins(2), || {
            if silent.is_asked() { Ok(()) } else { Err("no connection is open") }
        });
        // Hundreds of rotations are due, and the users go on while it hands over.
        let replicas: Vec<&Operator> = trio.replicas.iter().collect();
        trio.world.advance(&replicas, JUMP);
        let mark = trio.world.plane.audit().len();
        let (told, slowest) = thread::scope(|scope| {
            let (world, crowd) = (&trio.world, &mut trio.crowd);
            scope.spawn(move || crowd.stir(world, 2000..=3000));
            thread::sleep(Duration::from_millis(300));
            let told = clock::precise();
            signal(&trio.replicas[leader], "TERM");
            (told, slowest_until_other(&trio.world, leader))
        });
        let ended = trio.replicas[leader].wait_end();
        assert!(ended.success(), "{ended}");
        let took = trio.taken_over(mark, leader).duration_since(told);
        println!("handed over {took:#} after SIGTERM; a request took up to {slowest:?}");
        // Two writes of the Lease and the news of the first belong to it, which take what the API server takes now.
        let limit = SignedDuration::try_from(GRACEFUL + slowest * 2).expect("seconds");
        assert!(took <= limit, "{took:#} > {limit:#}");
        let late = trio.writes_after_the_lease(mark, leader);
        assert!(late.is_empty(), "after it gave the Lease up: {late:?}");
        trio.replicas[leader].revive();
        trio.replicas[leader].wait_up();
        trio.keys.moved(&trio.replicas);
    }
    trio.end();
}

#[test]
fn a_leader_that_is_cut_off_from_the_api_server_is_replaced() {
    let mut trio = Trio::start(false);
    for round in 0..3 {
        trio.stir(round);
        let leader = trio.leader();
        trio.links[leader].block();
        trio.wait_other_than(leader, HAND_OVER);
        let served = trio.replicas[leader].jwks();
        trio.crowd.stir(&trio.world, 500..=1000);
        trio.assert_keys_are_served_but_by(Some(leader));
        trio.links[leader].open();
        assert!(served["keys"].as_array().is_some_and(|keys| !keys.is_empty()), "keys are served meanwhile: {served}");
    }
    trio.end();
}

#[test]
fn no_key_signs_that_a_ready_replica_lacks() {
    let mut trio = Trio::start(false);
    let cut_off = (trio.leader() + 1) % REPLICAS;
    trio.links[cut_off].block();
    // Noticed at once, and for 30 s no matter of readiness. Without it the silence would be, after 150 s.
    trio.links[cut_off].cut();
    trio.wait_readiness(cut_off, 503);
    // What it serves from now on reaches nobody.
    trio.keys
        .moved(trio.replicas.iter().enumerate().filter(|(number, _)| *number != cut_off).map(|(_, replica)| replica));
    // The first rotation is to a key that all have; the next key is made then, and signs after the second.
    for _ in 0..2 {
        let replicas: Vec<&Operator> = trio.replicas.iter().collect();
        trio.world.advance(&replicas, Seconds::hours(3));
        wait_for("the key that signs next", HAND_OVER * 5, || {
            let now = trio.world.now();
            let ring = trio.world.ring();
            if ring.keys.iter().any(|key| key.signs_from > now) {
                Ok(())
            } else {
                Err(format!("{:?}", ring.keys.len()))
            }
        });
        for _ in 0..5 {
            trio.crowd.stir(&trio.world, 500..=1000);
            trio.assert_keys_are_served();
        }
    }
    let lacks = trio.unserved(&trio.replicas[cut_off]);
    assert!(!lacks.is_empty(), "no key signed meanwhile: nothing was shown");
    assert_eq!(trio.replicas[cut_off].get_ops("/readyz").status, 503);
    trio.links[cut_off].open();
    trio.wait_readiness(cut_off, 200);
    trio.assert_keys_are_served();
    trio.keys.moved(&trio.replicas);
    trio.end();
}

struct Trio {
    replicas: Vec<Operator>,
    links: Vec<Link>,
    crowd: Crowd,
    history: History,
    keys: Keys,
    world: World,
}

impl Trio {
    fn start(destructive: bool) -> Self {
        let world = World::start();
        let server: SocketAddr =
            world.plane.server().trim_start_matches("https://").parse().expect("an address and a port");
        let links: Vec<Link> = (0..REPLICAS).map(|_| Link::to(server)).collect();
        let lease = format!("{}s", LEASE.as_secs());
        let flags = [
            FLAGS.as_slice(),
            &["--leader-elect-lease-duration", &lease, "--signing-key-rotation", "2h", "--allow-local-endpoints"],
        ];
        let replicas: Vec<Operator> = links
            .iter()
            .enumerate()
            .map(|(number, link)| {
                let env = vec![("POD_NAME".to_owned(), pod(number))];
                let server = Some(format!("https://{}", link.address()));
                Operator::start(&world.plane, Options { env, server, ..world.options(&flags.concat()) })
            })
            .collect();
        let history = History::record(&world.plane);
        let mut crowd = Crowd::new(seed(), destructive).of(ACCOUNTS);
        crowd.complete(&world);
        let keys = Keys::follow(&replicas);
        let trio = Self { replicas, links, crowd, history, keys, world };
        trio.wait_sound();
        trio
    }

    /// Work for the leader: every other round a moved clock makes hundreds of rotations due.
    fn stir(&mut self, round: usize) {
        if round % 2 == 1 {
            let replicas: Vec<&Operator> = self.replicas.iter().collect();
            self.world.advance(&replicas, JUMP);
        }
        self.crowd.stir(&self.world, 200..=1500);
        self.assert_keys_are_served();
    }

    /// A channel that never gets an answer, and an account that tells of its rotations over it.
    fn tell_by(&mut self, silent: &Silent) {
        let cluster = &self.world.cluster;
        let secret =
            json!({"metadata": {"name": "hook"}, "stringData": {"secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}});
        cluster.create(&format!("/api/v1/namespaces/{APPS}/secrets"), &secret);
        let channel = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "NotificationChannel",
            "metadata": {"name": "hook"}, "spec": {"allowInsecure": true, "webhook": {
                "url": format!("http://{}/events", silent.address),
                "signingSecretRef": {"name": "hook", "key": "secret"}}}});
        cluster.create(&format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{APPS}/notificationchannels"), &channel);
        let targets = json!([{"channelRef": {"name": "hook"}}]);
        cluster.create_account(APPS, TOLD, json!({"notificationTargets": targets}));
        cluster.wait_ready(APPS, TOLD);
        self.crowd.asked.insert(TOLD.to_owned(), Asked::default());
    }

    fn request_of_told(&mut self, round: usize) {
        self.world.cluster.annotate(APPS, TOLD, "virtualaccounts.dev/rotate", &json!(format!("round-{round}")));
        self.crowd.asked.entry(TOLD.to_owned()).or_default().requests += 1;
    }

    fn wait_readiness(&self, replica: usize, status: u16) {
        wait_for(&format!("/readyz of {}", pod(replica)), Duration::from_mins(4), || {
            match self.replicas[replica].get_ops("/readyz") {
                answer if answer.status == status => Ok(()),
                answer => Err(format!("{} {}", answer.status, answer.body)),
            }
        });
    }

    fn lease(&self) -> Value {
        lease(&self.world)
    }

    fn holder(&self) -> Option<usize> {
        holder(&self.world)
    }

    fn leader(&self) -> usize {
        wait_for("a leader", HAND_OVER, || self.holder().ok_or_else(|| self.lease()["spec"].to_string()))
    }

    fn wait_other_than(&self, before: usize, deadline: Duration) -> Duration {
        let started = Instant::now();
        wait_for(&format!("another leader than {}", pod(before)), deadline, || match self.holder() {
            Some(holder) if holder != before => Ok(()),
            _ => Err(self.lease()["spec"].to_string()),
        });
        started.elapsed()
    }

    /// What was written for a replica, but for the Lease, reviews of callers and Events.
    fn writes_since(&self, mark: usize, replica: usize) -> Vec<String> {
        let credential = self.replicas[replica].credential();
        let audit = self.world.plane.audit();
        // What was on its way may arrive; the API server must refuse it.
        let carried_out = |event: &&AuditEvent| event.credential == credential && is_work(event) && event.code < 300;
        let own = audit.iter().skip(mark).filter(carried_out);
        own.map(|event| format!("{} {} {} {}", event.timestamp, event.verb, event.resource, event.code)).collect()
    }

    /// What came from a replica after its last write of the Lease.
    fn writes_after_the_lease(&self, mark: usize, replica: usize) -> Vec<String> {
        let credential = self.replicas[replica].credential();
        let mut own = self.world.plane.audit().split_off(mark);
        own.retain(|event| event.credential == credential && event.stage == "ResponseComplete" && event.is_write());
        own.sort_by(|one, other| one.received.cmp(&other.received));
        let last = own.iter().rposition(|event| event.resource == "leases").expect("it gave the Lease up");
        own.iter().skip(last).filter(|event| is_work(event)).map(|event| event.resource.clone()).collect()
    }

    /// When the API server had carried out the first write of the Lease by another replica.
    fn taken_over(&self, mark: usize, before: usize) -> Timestamp {
        let credential = self.replicas[before].credential();
        let audit = self.world.plane.audit().split_off(mark);
        let taken = audit.iter().filter(|event| event.resource == "leases" && event.is_write() && event.code < 300);
        let taken = taken.filter(|event| event.stage == "ResponseComplete" && event.credential != credential);
        let first = taken.map(|event| &event.timestamp).min().expect("another took it");
        first.parse().expect("RFC 3339")
    }

    /// Writes that were carried out for a replica while another held the Lease.
    fn overlaps(&self) -> Vec<String> {
        let names: BTreeMap<String, usize> =
            self.replicas.iter().enumerate().map(|(number, replica)| (replica.credential(), number)).collect();
        let mut audit = self.world.plane.audit();
        audit.retain(|event| names.contains_key(&event.credential) && event.stage == "ResponseComplete");
        audit.sort_by(|one, other| one.timestamp.cmp(&other.timestamp));
        let (mut holder, mut found) = (None, Vec::new());
        for event in &audit {
            let replica = names.get(&event.credential).copied();
            let accepted = event.code < 300;
            if event.resource == "leases" && event.is_write() && accepted {
                holder = replica;
            } else if is_work(event) && accepted && replica != holder {
                found.push(format!(
                    "{} {} {} by {replica:?}, not {holder:?}",
                    event.timestamp, event.verb, event.resource
                ));
            }
        }
        found
    }

    fn wait_sound(&self) {
        let leader = self.leader();
        wait_sound(&self.world, &self.replicas[leader], Duration::from_mins(2));
    }

    fn end(self) {
        // Past every grace, so that nothing waits for room in a ledger.
        let replicas: Vec<&Operator> = self.replicas.iter().collect();
        self.world.advance(&replicas, Seconds::hours(4));
        self.wait_sound();
        for replica in &self.replicas {
            assert_eq!(
                problems(&self.world, replica),
                Vec::<String>::new(),
                "all replicas serve the keys of all tokens"
            );
        }
        self.assert_introspection();
        self.history.assert_kept(&self.crowd.asked);
        let overlaps = self.overlaps();
        assert!(overlaps.is_empty(), "{} writes by a replica that did not lead: {:?}", overlaps.len(), &overlaps[..1]);
        let (longest, versions) = self.keys.end();
        assert!(longest < SPREAD, "JWKS differed for {longest:?}");
        println!(
            "{}; {versions} versions of the JWKS, which differed for at most {:.1} s",
            self.history.summary(),
            longest.as_secs_f32()
        );
    }

    /// All replicas answer the online check, whoever leads.
    fn assert_introspection(&self) {
        let accounts = self.world.accounts();
        let ledgers = accounts.values().filter_map(|account| account.status.as_ref()).flat_map(|status| &status.jwts);
        let alive: BTreeSet<&str> = ledgers.map(|entry| entry.id.as_str()).collect();
        let records = self.history.read();
        // Newest first: what has expired would be refused by any replica.
        let seen = records
            .secrets
            .iter()
            .rev()
            .filter_map(|version| Some((text(&version.object, "jti")?, text(&version.object, "token")?)));
        let (good, retired): (Vec<_>, Vec<_>) = seen.partition(|(jti, _)| alive.contains(jti.as_str()));
        let (good, retired) = (&good.first().expect("a token").1, &retired.first().expect("a retired token").1);
        for (number, replica) in self.replicas.iter().enumerate() {
            wait_for(&format!("what {} says", pod(number)), SPREAD, || {
                match (replica.accepts(good), replica.accepts(retired)) {
                    (true, false) => Ok(()),
                    said => Err(format!("{said:?}")),
                }
            });
        }
    }

    /// The keys of tokens in ledgers that this replica does not serve.
    fn unserved(&self, replica: &Operator) -> BTreeSet<String> {
        let accounts = self.world.accounts();
        let entries = accounts.values().filter_map(|account| account.status.as_ref()).flat_map(|status| &status.jwts);
        let used: BTreeSet<String> = entries.map(|entry| entry.key_id.clone()).collect();
        let served = jwks(replica).keys.into_iter().filter_map(|key| key.common.key_id).collect();
        used.difference(&served).cloned().collect()
    }

    /// Each ready replica serves the key of each token there is.
    fn assert_keys_are_served(&self) {
        self.assert_keys_are_served_but_by(None);
    }

    /// The same without one that was cut off just now: for it, a clock that jumps lets a key sign minutes too soon.
    fn assert_keys_are_served_but_by(&self, cut_off: Option<usize>) {
        let others = self.replicas.iter().enumerate().filter(|(number, _)| Some(*number) != cut_off);
        let mut ready = 0;
        for (_, replica) in others.filter(|(_, replica)| replica.get_ops("/readyz").status == 200) {
            // A key goes after the last ledger that named it, which may have been in between: look again.
            let missing = [self.unserved(replica), self.unserved(replica)];
            let both: Vec<_> = missing[0].intersection(&missing[1]).collect();
            assert!(both.is_empty(), "keys {both:?} signed and are not served");
            ready += 1;
        }
        assert!(ready > 0, "no replica is ready");
    }
}

/// How often the leader is killed: `VAO_KILLS`, 20 with `make test-full`.
fn kills() -> usize {
    std::env::var("VAO_KILLS").map_or(4, |kills| kills.parse().expect("VAO_KILLS is a number"))
}

fn lease(world: &World) -> Value {
    world.cluster.find(LEASE_PATH).expect("the Lease exists")
}

fn holder(world: &World) -> Option<usize> {
    let lease = lease(world);
    let holder = lease["spec"]["holderIdentity"].as_str()?;
    (0..REPLICAS).find(|number| holder.starts_with(&format!("{}_", pod(*number))))
}

/// Waits until another replica leads; how long the API server took for an answer meanwhile, at most.
fn slowest_until_other(world: &World, before: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    wait_for(&format!("another leader than {}", pod(before)), HAND_OVER * 5, || {
        let asked = Instant::now();
        let holder = holder(world);
        slowest = slowest.max(asked.elapsed());
        if holder.is_some_and(|holder| holder != before) { Ok(()) } else { Err(format!("{holder:?}")) }
    });
    slowest
}

/// A server that takes connections and never answers.
struct Silent {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::<Mutex<Vec<TcpStream>>>::default();
        let taken = Arc::clone(&connections);
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream.set_nonblocking(true).expect("a socket");
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            }
        });
        Self { address, connections }
    }

    /// Whether anybody waits for an answer now.
    fn is_asked(&self) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; 16 * 1024];
        connections.retain_mut(|stream| {
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) => return false,
                    Ok(_) => {}
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
        });
        !connections.is_empty()
    }
}

/// What all replicas serve as their keys, looked at all the time.
struct Keys {
    addresses: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    watcher: thread::JoinHandle<(Duration, usize)>,
}

impl Keys {
    fn follow(replicas: &[Operator]) -> Self {
        let addresses = Arc::new(Mutex::new(public(replicas)));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&addresses), Arc::clone(&stop));
        let watcher = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(watch_keys(&shared, &ended))
        });
        Self { addresses, stop, watcher }
    }

    /// After a replica started again, on other ports.
    fn moved<'a>(&self, replicas: impl IntoIterator<Item = &'a Operator>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = public(replicas);
    }

    /// For how long any two differed at most, and how many versions there were.
    fn end(self) -> (Duration, usize) {
        self.stop.store(true, Ordering::SeqCst);
        self.watcher.join().expect("the watcher of the keys ended well")
    }
}

fn public<'a>(replicas: impl IntoIterator<Item = &'a Operator>) -> Vec<String> {
    replicas.into_iter().map(|replica| replica.public_address().to_owned()).collect()
}

async fn watch_keys(addresses: &Mutex<Vec<String>>, stop: &AtomicBool) -> (Duration, usize) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().expect("a client");
    let (mut longest, mut since, mut versions) = (Duration::ZERO, None::<Instant>, BTreeSet::new());
    while !stop.load(Ordering::SeqCst) {
        let now: Vec<String> = addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fetch = now.iter().map(|address| client.get(format!("http://{address}/jwks.json")).send());
        let fetch = fetch.map(|answer| async { answer.await.ok()?.error_for_status().ok()?.text().await.ok() });
        // One that is dead or frozen serves nothing, so nothing that differs.
        let served: BTreeSet<String> = futures::future::join_all(fetch).await.into_iter().flatten().collect();
        since = if served.len() > 1 { since.or_else(|| Some(Instant::now())) } else { None };
        longest = longest.max(since.map_or(Duration::ZERO, |since| since.elapsed()));
        versions.extend(served);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (longest, versions.len())
}

fn pod(number: usize) -> String {
    format!("replica-{number}")
}

fn signal(operator: &Operator, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", operator.pid())]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the operator had ended");
}

fn is_work(event: &AuditEvent) -> bool {
    let others = ["leases", "events", "tokenreviews", "subjectaccessreviews"];
    event.is_write() && event.stage == "ResponseComplete" && !others.contains(&event.resource.as_str())
}
