//! The outbox with a clock that tests move and a courier that writes down what it was given.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::DropGuard;

use super::lane::MOST;
use super::turns::{IN_ALL, PER_CHANNEL};
use super::*;
use crate::api::Seconds;
use crate::notify::Content;

const DAY: u64 = 86_400;
const T: Instant = Instant::MAX;

/// How a message ends, after how long.
#[derive(Clone, Debug)]
enum Answer {
    End(Duration, Result<(), ProviderError>),
    Panic,
}

/// One call of the courier.
#[derive(Clone, Debug)]
struct Call {
    /// Seconds since the beginning.
    at: u64,
    /// When it ended, if it did.
    ended: Option<u64>,
    channel: ObjectId,
    message: Message,
    good: bool,
}

type Script = Box<dyn Fn(&ObjectId, &Message, usize) -> Answer + Send + Sync>;

struct Fake {
    began: Monotonic,
    calls: Mutex<Vec<Call>>,
    /// What arrived, in the order of arrival.
    arrived: Mutex<Vec<Letter>>,
    script: Script,
}

impl Fake {
    fn seconds(&self) -> u64 {
        self.began.elapsed().as_secs()
    }
}

#[async_trait]
impl Courier for Fake {
    async fn deliver(&self, channel: &ObjectId, message: &Message) -> Result<(), ProviderError> {
        let number = {
            let mut calls = lock(&self.calls);
            let (channel, message) = (channel.clone(), message.clone());
            calls.push(Call { at: self.seconds(), ended: None, channel, message, good: false });
            calls.len() - 1
        };
        // Unwinds as a panic does, without its lines on the screen.
        let Answer::End(after, result) = (self.script)(channel, message, number) else { resume_unwind(Box::new(())) };
        sleep(after).await;
        let call = &mut lock(&self.calls)[number];
        (call.ended, call.good) = (Some(self.seconds()), result.is_ok());
        if result.is_ok() {
            lock(&self.arrived).extend_from_slice(&message.letters);
        }
        result
    }
}

/// An outbox at work.
struct World {
    outbox: Arc<Outbox>,
    fake: Arc<Fake>,
    told: Arc<Mutex<Vec<String>>>,
    running: JoinHandle<()>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl World {
    fn new(script: impl Fn(&ObjectId, &Message, usize) -> Answer + Send + Sync + 'static) -> Self {
        let (calls, arrived) = (Mutex::default(), Mutex::default());
        let fake = Arc::new(Fake { began: Monotonic::now(), calls, arrived, script: Box::new(script) });
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let hear = Arc::clone(&told);
        let tell = Arc::new(move |account: AccountId| lock(&hear).push(account.name));
        let outbox = Outbox::new(Arc::<Fake>::clone(&fake), "prod".into(), tell);
        let stop = CancellationToken::new();
        let (runs, ends) = (Arc::clone(&outbox), stop.clone());
        let running = tokio::spawn(async move { runs.run(ends).await });
        Self { outbox, fake, told, running, _stop: stop.clone().drop_guard(), stop }
    }

    fn good() -> Self {
        Self::new(|_, _, _| ok())
    }

    fn post<const N: usize>(&self, name: &str, letters: [Posted; N]) {
        self.outbox.post(&account(name), letters.into());
    }

    /// When, over which channel, with which letters.
    fn sent(&self) -> Vec<(u64, String, String)> {
        let calls = lock(&self.fake.calls);
        calls.iter().map(|call| (call.at, call.channel.name.clone(), ids(&call.message))).collect()
    }

    /// When, with which letters, over this channel.
    fn sent_over(&self, channel: &str) -> Vec<(u64, String)> {
        let sent = self.sent().into_iter().filter(|(_, over, _)| over == channel);
        sent.map(|(at, _, ids)| (at, ids)).collect()
    }

    fn times(&self) -> Vec<u64> {
        self.sent().into_iter().map(|(at, ..)| at).collect()
    }

    /// `id: Sent`, `id: Failing Reason` …
    fn reports(&self, name: &str) -> Vec<String> {
        let report = |(id, report)| match report {
            Report::Sent { .. } => format!("{id}: Sent"),
            Report::Failing { error } => format!("{id}: Failing {}", error.reason),
            Report::Refused { error } => format!("{id}: Refused {}", error.reason),
        };
        self.outbox.reports(&account(name)).into_iter().map(report).collect()
    }

    fn told(&self) -> Vec<String> {
        lock(&self.told).clone()
    }

    fn is_bare(&self) -> bool {
        self.outbox.desk().is_bare()
    }
}

fn ids(message: &Message) -> String {
    message.letters.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>().join(" ")
}

fn ok() -> Answer {
    Answer::End(Duration::ZERO, Ok(()))
}

fn slow(seconds: u64) -> Answer {
    Answer::End(Duration::from_secs(seconds), Ok(()))
}

fn fail(kind: ErrorKind, reason: &str) -> Answer {
    Answer::End(Duration::ZERO, Err(ProviderError::new(kind, reason, "it says no")))
}

fn patience(asked: Seconds) -> Answer {
    let error = ProviderError::new(ErrorKind::Throttled, "RateLimited", "later");
    Answer::End(Duration::ZERO, Err(ProviderError { retry_after: Some(asked), ..error }))
}

fn account(name: &str) -> AccountId {
    AccountId::new("team", name)
}

fn channel(name: &str) -> ObjectId {
    ObjectId { namespace: "team".into(), name: name.into() }
}

fn letter(id: &str) -> Letter {
    Letter {
        id: id.into(),
        incident: id.into(),
        account: account("app"),
        owner: None,
        description: None,
        jti: "jti".into(),
        at: T,
        content: Content::Retired { ended_at: T },
    }
}

fn posted(medium: Medium, over: &str, id: &str) -> Posted {
    Posted { channel: channel(over), medium, recipients: Vec::new(), letter: letter(id) }
}

fn chat(id: &str) -> Posted {
    posted(Medium::SlackWebhook, "chat", id)
}

fn hook(id: &str) -> Posted {
    posted(Medium::Webhook, "hook", id)
}

fn mail(to: &str, id: &str) -> Posted {
    Posted { recipients: vec![to.into()], ..posted(Medium::Email, "mail", id) }
}

/// Lets all go on that needs no time; a thousandth of a second passes.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

fn owned(list: &[(u64, &str)]) -> Vec<(u64, String)> {
    list.iter().map(|(at, ids)| (*at, (*ids).to_owned())).collect()
}

async fn rotate_a_hundred_within_a_minute(world: &World, posted: impl Fn(&str) -> Posted) {
    for n in 0..100 {
        world.post(&format!("app-{n}"), [posted(&format!("{n:02}"))]);
        sleep(Duration::from_millis(600)).await;
    }
    pass(DAY).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_rotations_in_a_minute_are_three_messages_in_a_chat() {
    let world = World::good();
    rotate_a_hundred_within_a_minute(&world, chat).await;
    let sent = world.sent_over("chat");
    assert_eq!(sent.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 30, 60]);
    assert_eq!(sent[0].1, "00", "the first goes out at once");
    let mut all: Vec<_> = sent.iter().flat_map(|(_, ids)| ids.split(' ')).collect();
    assert_eq!(all.len(), 100);
    all.dedup();
    assert_eq!(all.len(), 100, "each once, in order");
    for n in 0..100 {
        assert_eq!(world.reports(&format!("app-{n}")), [format!("{n:02}: Sent")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_rotations_in_a_minute_are_a_hundred_calls_of_a_webhook() {
    let world = World::good();
    rotate_a_hundred_within_a_minute(&world, hook).await;
    let expected: Vec<_> = (0..100_u64).map(|n| (n * 600 / 1000, format!("{n:02}"))).collect();
    assert_eq!(world.sent_over("hook"), expected);
}

#[tokio::test(start_paused = true)]
async fn one_message_tells_a_hundred_letters_at_most() {
    let world = World::good();
    let letters: Vec<_> = (0..250).map(|n| chat(&format!("{n:03}"))).collect();
    world.outbox.post(&account("app"), letters);
    pass(300).await;
    let calls = lock(&world.fake.calls).clone();
    let sizes: Vec<_> = calls.iter().map(|call| (call.at, call.message.letters.len())).collect();
    assert_eq!(sizes, [(0, MOST), (30, MOST), (60, 50)]);
    let order: Vec<_> = calls.iter().flat_map(|call| &call.message.letters).map(|letter| letter.id.clone()).collect();
    assert!(order.is_sorted(), "in the order of the set");
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_was_quiet_for_a_window_is_told_at_once_again() {
    let world = World::good();
    world.post("a", [chat("1")]);
    pass(29).await;
    world.post("b", [chat("2")]);
    pass(61).await;
    world.post("c", [chat("3")]);
    settle().await;
    assert_eq!(world.sent_over("chat"), owned(&[(0, "1"), (30, "2"), (90, "3")]));
}

#[tokio::test(start_paused = true)]
async fn only_letters_to_the_same_recipients_share_a_message() {
    let world = World::good();
    world.post("a", [mail("x@example.com", "1"), mail("y@example.com", "2"), mail("x@example.com", "3")]);
    settle().await;
    assert_eq!(world.sent_over("mail"), owned(&[(0, "1 3"), (0, "2")]));
    let recipients: Vec<_> = lock(&world.fake.calls).iter().map(|call| call.message.recipients.clone()).collect();
    assert_eq!(recipients, [["x@example.com"], ["y@example.com"]]);
}

#[tokio::test(start_paused = true)]
async fn a_message_has_the_cluster_and_the_time_of_sending() {
    let world = World::good();
    let before = clock::now();
    world.post("a", [chat("1")]);
    settle().await;
    let message = lock(&world.fake.calls)[0].message.clone();
    assert!(before <= message.now && message.now <= clock::now());
    let expected = Message { letters: vec![letter("1")], recipients: vec![], cluster: "prod".into(), now: message.now };
    assert_eq!(message, expected);
    let reports = world.outbox.reports(&account("a"));
    let Some(Report::Sent { at }) = reports.get("1") else { panic!("{reports:?}") };
    assert!(message.now <= *at && *at <= clock::now());
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_webhook_go_one_after_the_other() {
    let world = World::new(|_, _, _| slow(10));
    world.post("a", [hook("1"), hook("2"), hook("3")]);
    pass(60).await;
    assert_eq!(world.sent_over("hook"), owned(&[(0, "1"), (10, "2"), (20, "3")]));
}

#[tokio::test(start_paused = true)]
async fn a_dead_channel_costs_few_attempts_a_day_and_disturbs_no_other() {
    let world = World::new(|channel, _, _| match channel.name.as_str() {
        "dead" => Answer::End(
            Duration::from_secs(10),
            Err(ProviderError::new(ErrorKind::Unavailable, "Unreachable", "no answer")),
        ),
        _ => ok(),
    });
    let lost = |n: usize| Posted { recipients: vec![n.to_string()], ..posted(Medium::Email, "dead", "lost") };
    for hour in 0..24 {
        world.post(&format!("live-{hour}"), [hook(&format!("{hour}"))]);
        // The passes hand in the same sets again and again, and later letters just join.
        for n in 0..8 {
            world.post(&format!("early-{n}"), [lost(n)]);
            if hour >= 5 {
                world.post(&format!("late-{n}"), [lost(n)]);
            }
        }
        pass(3600).await;
    }
    let mut attempts: HashMap<_, u32> = HashMap::new();
    for call in lock(&world.fake.calls).iter().filter(|call| call.channel.name == "dead") {
        *attempts.entry(call.message.recipients.clone()).or_default() += 1;
    }
    println!("attempts within a day on each lane of a dead channel: {:?}", attempts.values());
    assert_eq!(attempts.len(), 8);
    assert!(attempts.values().all(|count| (20..=40).contains(count)), "{attempts:?}");
    for account in (0..8).flat_map(|n| [format!("early-{n}"), format!("late-{n}")]) {
        assert_eq!(world.reports(&account), ["lost: Failing Unreachable"]);
        assert_eq!(world.told().iter().filter(|told| **told == account).count(), 1, "{account}");
    }
    let hourly: Vec<_> = (0..24_u64).map(|hour| (hour * 3600, hour.to_string())).collect();
    assert_eq!(world.sent_over("hook"), hourly);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_when_it_is_new_or_another() {
    let world = World::new(|_, _, number| match number {
        0..6 => fail(ErrorKind::Unavailable, "Unreachable"),
        6..9 => fail(ErrorKind::Denied, "Denied"),
        _ => ok(),
    });
    world.post("a", [hook("1")]);
    settle().await;
    assert_eq!((world.told().len(), world.reports("a")), (1, vec!["1: Failing Unreachable".to_owned()]));
    pass(50).await;
    assert!(world.times().len() > 5);
    assert_eq!(world.told().len(), 1);
    pass(75).await;
    assert_eq!((world.told().len(), world.reports("a")), (2, vec!["1: Failing Denied".to_owned()]));
    pass(3600).await;
    assert_eq!((world.told().len(), world.reports("a")), (3, vec!["1: Sent".to_owned()]));
    assert_eq!(world.times().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_failure_is_told_of_it() {
    let world = World::new(|_, _, _| fail(ErrorKind::Unavailable, "ConnectionBroken"));
    world.post("first", [hook("a")]);
    world.post("second", [hook("b")]);
    settle().await;
    for (name, id) in [("first", "a"), ("second", "b")] {
        let report = world.outbox.reports(&account(name)).remove(id);
        assert!(matches!(report, Some(Report::Failing { .. })), "{name}: {report:?}");
    }
    assert_eq!((world.sent().len(), lock(&world.told).len()), (1, 2), "one attempt, and both hear of it");
}

#[tokio::test(start_paused = true)]
async fn waits_double_until_the_first_success() {
    let world = World::new(|_, _, number| if number == 8 { ok() } else { fail(ErrorKind::Unavailable, "Down") });
    world.post("a", [hook("1"), hook("2")]);
    pass(600).await;
    let times = world.times();
    let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).take(9).collect();
    for (n, wait) in waits[..8].iter().enumerate() {
        let full = 1_u64 << n;
        assert!((full - full / 4..=full + 1).contains(wait), "{n}: {waits:?}");
    }
    assert_eq!(world.sent()[8].2, "1");
    assert!(waits[8] <= 1, "the next letter goes on at once: {waits:?}");
    assert_eq!(times[10] - times[9], 1, "and counts anew: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_time_that_the_provider_asked_for() {
    let world = World::new(|_, _, number| match number {
        0 => patience(Seconds(600)),
        1 => patience(Seconds::days(3)),
        2 => patience(Seconds(1)),
        _ => ok(),
    });
    world.post("a", [chat("1")]);
    pass(599).await;
    world.post("b", [chat("2")]);
    pass(DAY).await;
    let sent = world.sent_over("chat");
    assert_eq!(sent[..3], owned(&[(0, "1"), (600, "1 2"), (600 + 6 * 3600, "1 2")]));
    let last = sent[3].0 - sent[2].0;
    assert!((3..=5).contains(&last), "at least the third wait of its own, 3 to 4 s: {last}");
    assert_eq!(sent.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_refused_letter_refuses_no_other() {
    let is_bad = |message: &Message| message.letters.iter().any(|letter| letter.id == "bad");
    let world = World::new(
        move |_, message, _| {
            if is_bad(message) { fail(ErrorKind::Invalid, "invalid_blocks") } else { ok() }
        },
    );
    world.post("a", [chat("1"), chat("bad"), chat("3")]);
    world.post("b", [chat("4")]);
    pass(45).await;
    world.post("c", [chat("5")]);
    pass(46).await;
    assert_eq!(world.reports("c"), ["5: Sent"], "the others are not held up meanwhile");
    pass(600).await;
    let expected = [(0, "1 bad 3 4"), (30, "1"), (60, "5"), (90, "bad"), (120, "3"), (150, "4")];
    assert_eq!(world.sent_over("chat"), owned(&expected));
    assert_eq!(world.reports("a"), ["1: Sent", "3: Sent", "bad: Refused invalid_blocks"]);
    assert_eq!(world.reports("b"), ["4: Sent"]);
}

#[tokio::test(start_paused = true)]
async fn letters_that_go_alone_and_others_take_turns() {
    let world = World::new(|_, _, number| if number == 0 { fail(ErrorKind::Invalid, "too_long") } else { ok() });
    world.post("a", [chat("1"), chat("2"), chat("3")]);
    pass(15).await;
    world.post("b", [chat("4"), chat("5")]);
    pass(600).await;
    let expected = [(0, "1 2 3"), (30, "1"), (60, "4 5"), (90, "2"), (120, "3")];
    assert_eq!(world.sent_over("chat"), owned(&expected));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_failure_of_the_lane() {
    let world = World::new(|_, message, _| match ids(message).as_str() {
        "bad" => fail(ErrorKind::Invalid, "Refused"),
        _ => ok(),
    });
    world.post("a", [hook("bad"), hook("2")]);
    settle().await;
    assert_eq!(world.sent_over("hook"), owned(&[(0, "bad"), (0, "2")]));
    assert_eq!(world.reports("a"), ["2: Sent", "bad: Refused Refused"]);
    world.post("a", [hook("bad"), hook("2")]);
    pass(DAY).await;
    assert_eq!(world.sent().len(), 2, "neither is sent again while it is in the set");
}

#[tokio::test(start_paused = true)]
async fn what_is_being_sent_is_not_sent_twice() {
    let world = World::new(|_, _, _| slow(10));
    world.post("a", [hook("1")]);
    pass(5).await;
    world.post("a", [hook("1"), hook("2")]);
    world.post("a", [hook("1"), hook("2")]);
    assert_eq!(world.reports("a"), Vec::<String>::new());
    pass(60).await;
    assert_eq!(world.sent_over("hook"), owned(&[(0, "1"), (10, "2")]));
    assert_eq!(world.reports("a"), ["1: Sent", "2: Sent"]);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_changes_while_it_waits_is_sent_as_it_is_then() {
    let world = World::good();
    world.post("a", [chat("1"), chat("2")]);
    settle().await;
    let with = |at: Instant| {
        let mut posted = chat("3");
        posted.letter.content = Content::Retired { ended_at: at };
        posted
    };
    world.post("a", [with(T - Seconds(2))]);
    world.post("b", [chat("4")]);
    pass(10).await;
    world.post("a", [with(T - Seconds(1))]);
    pass(30).await;
    let calls = lock(&world.fake.calls).clone();
    assert_eq!(calls.len(), 2);
    assert_eq!(ids(&calls[1].message), "3 4", "at its old place");
    assert_eq!(calls[1].message.letters[0].content, Content::Retired { ended_at: T - Seconds(1) });
}

#[tokio::test(start_paused = true)]
async fn what_leaves_the_set_while_it_waits_is_not_sent() {
    let world = World::good();
    world.post("a", [chat("1")]);
    settle().await;
    world.post("a", [chat("1"), chat("2"), chat("3")]);
    pass(10).await;
    world.post("a", [chat("1"), chat("3")]);
    pass(60).await;
    assert_eq!(world.sent_over("chat"), owned(&[(0, "1"), (30, "3")]));
    assert_eq!(world.reports("a"), ["1: Sent", "3: Sent"]);
}

#[tokio::test(start_paused = true)]
async fn what_leaves_the_set_while_it_is_sent_leaves_no_report() {
    let world = World::new(|_, message, _| match ids(message).as_str() {
        "1" => slow(10),
        _ => Answer::End(Duration::from_secs(10), Err(ProviderError::new(ErrorKind::Unavailable, "Down", "no"))),
    });
    world.post("a", [hook("1")]);
    world.post("b", [posted(Medium::Webhook, "other", "2")]);
    pass(5).await;
    world.post("a", []);
    world.post("b", []);
    pass(10).await;
    assert_eq!((world.reports("a"), world.reports("b")), (vec![], vec![]));
    assert_eq!(world.told(), Vec::<String>::new());
    pass(DAY).await;
    assert_eq!(world.sent().len(), 2, "what failed is not tried again");
    assert!(world.is_bare());
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_into_the_set_while_it_is_sent_is_sent_once() {
    let world = World::new(|_, _, _| slow(10));
    world.post("a", [hook("1")]);
    pass(5).await;
    world.post("a", []);
    settle().await;
    world.post("a", [hook("1")]);
    pass(60).await;
    assert_eq!(world.sent_over("hook"), owned(&[(0, "1")]));
    assert_eq!((world.reports("a"), world.told()), (vec!["1: Sent".to_owned()], vec!["a".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_set_without_it_acknowledges_a_report() {
    let world = World::good();
    world.post("a", [hook("1"), hook("2")]);
    settle().await;
    world.post("a", [hook("1"), hook("2")]);
    assert_eq!(world.reports("a"), ["1: Sent", "2: Sent"], "kept until it is recorded");
    world.post("a", [hook("2")]);
    assert_eq!(world.reports("a"), ["2: Sent"]);
    world.post("a", []);
    assert_eq!(world.reports("a"), Vec::<String>::new());
    assert_eq!(world.told(), ["a", "a"]);
    settle().await;
    assert!(world.is_bare());
}

#[tokio::test(start_paused = true)]
async fn an_id_twice_in_a_set_is_one_letter() {
    let world = World::good();
    world.post("a", [hook("1"), chat("1"), hook("2"), hook("2")]);
    pass(60).await;
    assert_eq!((world.sent_over("chat"), world.sent_over("hook")), (owned(&[(0, "1")]), owned(&[(0, "2")])));
    assert_eq!(world.reports("a"), ["1: Sent", "2: Sent"]);
}

#[tokio::test(start_paused = true)]
async fn ids_of_two_accounts_do_not_meet() {
    let world = World::good();
    world.post("a", [chat("1")]);
    world.post("b", [chat("1")]);
    settle().await;
    world.post("a", []);
    assert_eq!(world.sent_over("chat"), owned(&[(0, "1 1")]));
    assert_eq!((world.reports("a"), world.reports("b")), (vec![], vec!["1: Sent".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_same_letters_go_out_with_the_same_ids() {
    for expected in [[(0, "1".to_owned())], [(0, "1".to_owned())]] {
        let world = World::good();
        world.post("a", [chat("1")]);
        settle().await;
        assert_eq!(world.sent_over("chat"), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_finishes_what_is_in_hand_and_starts_nothing() {
    let mut world = World::new(|_, _, _| slow(7));
    world.post("a", [hook("1"), hook("2")]);
    // Less than half a second before it ends.
    sleep(Duration::from_millis(6600)).await;
    world.post("b", [chat("3")]);
    world.stop.cancel();
    settle().await;
    assert!(!world.running.is_finished(), "a send is in hand");
    world.post("c", [mail("x@example.com", "4")]);
    (&mut world.running).await.unwrap();
    assert_eq!(world.fake.seconds(), 7);
    assert_eq!(world.sent(), [(0, "hook".into(), "1".into())]);
    assert_eq!((world.reports("a"), world.told()), (vec!["1: Sent".to_owned()], vec!["a".to_owned()]));
    assert_eq!((world.reports("b"), world.reports("c")), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_a_message_that_takes_long() {
    let mut world = World::new(|_, _, _| slow(7));
    world.post("a", [chat("1")]);
    pass(5).await;
    world.stop.cancel();
    (&mut world.running).await.unwrap();
    assert_eq!((world.fake.seconds(), world.reports("a")), (5, vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_with_the_term_is_forgotten() {
    let world = World::new(|_, _, _| slow(10));
    world.post("a", [hook("1"), hook("2")]);
    pass(5).await;
    world.running.abort();
    settle().await;
    assert_eq!(world.reports("a"), Vec::<String>::new());
    let outbox = Arc::clone(&world.outbox);
    let again = tokio::spawn(async move { outbox.run(CancellationToken::new()).await });
    pass(60).await;
    assert_eq!(world.sent(), [(0, "hook".into(), "1".into())], "another replica may have sent the second");
    // Whoever leads is told anew what is still to be sent.
    world.post("a", [hook("2")]);
    pass(60).await;
    assert_eq!(world.reports("a"), ["2: Sent"]);
    again.abort();
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_but_not_begun_when_it_stopped_waits_as_before() {
    let world = World::good();
    world.stop.cancel();
    settle().await;
    world.post("a", [chat("1"), chat("2")]);
    let (batches, _) = world.outbox.take();
    assert_eq!(batches.len(), 1);
    for batch in batches {
        world.outbox.send(batch, world.stop.clone()).await;
    }
    assert_eq!((world.sent(), world.reports("a")), (vec![], vec![]));
    let outbox = Arc::clone(&world.outbox);
    let again = tokio::spawn(async move { outbox.run(CancellationToken::new()).await });
    settle().await;
    again.abort();
    assert_eq!(world.sent_over("chat"), owned(&[(0, "1 2")]));
}

#[tokio::test(start_paused = true)]
async fn a_courier_that_panics_is_a_channel_that_fails() {
    let world = World::new(|channel, _, number| match channel.name.as_str() {
        "chat" if number < 2 => Answer::Panic,
        _ => ok(),
    });
    world.post("a", [chat("1")]);
    settle().await;
    assert_eq!(world.reports("a"), ["1: Failing Panicked"]);
    world.post("b", [hook("2")]);
    pass(60).await;
    assert_eq!((world.reports("a"), world.reports("b")), (vec!["1: Sent".to_owned()], vec!["2: Sent".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_channel_ends_the_wait_but_not_the_count() {
    let world = World::new(|_, _, _| fail(ErrorKind::Denied, "Denied"));
    world.post("a", [chat("1")]);
    pass(3600).await;
    let before = world.times().len();
    world.outbox.changed(&channel("another"));
    settle().await;
    assert_eq!(world.times().len(), before);
    world.outbox.changed(&channel("chat"));
    settle().await;
    assert_eq!(world.times().len(), before + 1);
    pass(1500).await;
    assert_eq!(world.times().len(), before + 1, "the next wait is that of all failures together");
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_works_again_ends_the_wait_but_not_before_the_provider_asked() {
    let world = World::new(|channel, _, number| match (channel.name.as_str(), number) {
        ("hook", ..3) => patience(Seconds(3600)),
        (_, ..3) => fail(ErrorKind::Unavailable, "ServerError"),
        _ => ok(),
    });
    world.post("a", [chat("1")]);
    world.post("b", [hook("2")]);
    settle().await;
    // A check that comes and goes every five minutes.
    for _ in 0..11 {
        pass(300).await;
        world.outbox.recovered(&channel("hook"));
    }
    assert_eq!(world.sent_over("hook").len(), 1);
    pass(299).await;
    assert_eq!(world.sent_over("hook").len(), 1, "one attempt in that hour");
    pass(2).await;
    assert_eq!(world.sent_over("hook")[1].0, 3600);
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_out_when_the_channel_works_again() {
    let world = World::new(|_, _, number| match number {
        0..8 => fail(ErrorKind::Unavailable, "ServerError"),
        8 => patience(Seconds(20)),
        _ => ok(),
    });
    world.post("a", [chat("1")]);
    while world.times().len() < 8 {
        pass(1).await;
    }
    let before = *world.times().last().unwrap();
    pass(10).await;
    world.outbox.recovered(&channel("another"));
    settle().await;
    assert_eq!(world.times().len(), 8);
    world.outbox.recovered(&channel("chat"));
    settle().await;
    assert_eq!(world.times().len(), 9);
    // Its own wait is minutes by now; the provider asked for less.
    world.outbox.recovered(&channel("chat"));
    pass(60).await;
    let times = world.times();
    assert_eq!((times.len(), times[9] - times[8], times[8] > before), (10, 20, true), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn what_failed_while_the_channel_recovered_is_tried_when_the_provider_allows() {
    for (asked, next) in [(None, 10), (Some(Seconds(300)), 310)] {
        let world = World::new(move |_, _, number| match number {
            0 => Answer::End(
                Duration::from_secs(10),
                Err(ProviderError {
                    retry_after: asked,
                    ..ProviderError::new(ErrorKind::Unavailable, "Timeout", "no answer")
                }),
            ),
            _ => ok(),
        });
        world.post("a", [chat("1")]);
        pass(5).await;
        world.outbox.recovered(&channel("chat"));
        pass(600).await;
        assert_eq!(world.sent_over("chat"), owned(&[(0, "1"), (next, "1")]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_channel_keeps_the_window() {
    let world = World::good();
    world.post("a", [chat("1")]);
    settle().await;
    world.post("a", [chat("1"), chat("2")]);
    world.outbox.changed(&channel("chat"));
    pass(60).await;
    assert_eq!(world.sent_over("chat"), owned(&[(0, "1"), (30, "2")]));
}

#[tokio::test(start_paused = true)]
async fn what_failed_while_the_channel_changed_is_tried_again_at_once() {
    let world = World::new(|_, _, number| match number {
        0 => Answer::End(
            Duration::from_secs(10),
            Err(ProviderError {
                retry_after: Some(Seconds::hours(1)),
                ..ProviderError::new(ErrorKind::Denied, "Denied", "an old token")
            }),
        ),
        _ => ok(),
    });
    world.post("a", [chat("1")]);
    pass(5).await;
    world.outbox.changed(&channel("chat"));
    pass(60).await;
    assert_eq!(world.sent_over("chat"), owned(&[(0, "1"), (10, "1")]));
}

#[tokio::test(start_paused = true)]
async fn a_letter_may_go_another_way() {
    let world = World::new(|channel, _, _| match channel.name.as_str() {
        "dead" => Answer::End(
            Duration::from_secs(10),
            Err(ProviderError::new(ErrorKind::Unavailable, "Unreachable", "no answer")),
        ),
        _ => ok(),
    });
    let dead = |id| posted(Medium::Webhook, "dead", id);
    world.post("a", [dead("1"), dead("2")]);
    pass(5).await;
    world.post("a", [hook("1"), hook("2")]);
    settle().await;
    assert_eq!(world.sent_over("hook"), owned(&[(5, "2")]), "the first is still in hand");
    pass(DAY).await;
    assert_eq!(world.sent_over("hook"), owned(&[(5, "2"), (10, "1")]));
    assert_eq!(world.sent_over("dead").len(), 1);
    assert_eq!(world.reports("a"), ["1: Sent", "2: Sent"]);
}

/// The most messages at the same time: over any one channel, over all.
fn crowd(calls: &[Call]) -> (usize, usize) {
    let during = |at: u64| calls.iter().filter(move |call| call.at <= at && call.ended.is_none_or(|end| at < end));
    let over = |at, channel: &ObjectId| during(at).filter(|call| call.channel == *channel).count();
    let each = calls.iter().map(|call| over(call.at, &call.channel)).max();
    (each.unwrap_or(0), calls.iter().map(|call| during(call.at).count()).max().unwrap_or(0))
}

#[tokio::test(start_paused = true)]
async fn at_most_four_messages_over_a_channel_and_sixty_four_in_all() {
    let world = World::new(|_, _, _| slow(10));
    for n in 0..400 {
        let to = vec![format!("{n}@example.com")];
        // The last hundred all go over one channel.
        let over = format!("mail-{}", if n < 300 { n % 20 } else { 0 });
        world.post(&format!("app-{n}"), [Posted { recipients: to, ..posted(Medium::Email, &over, "1") }]);
    }
    pass(3600).await;
    let calls = lock(&world.fake.calls).clone();
    assert_eq!((calls.len(), crowd(&calls)), (400, (PER_CHANNEL, IN_ALL)));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_hangs_holds_up_no_other() {
    let world = World::new(|channel, _, _| if channel.name == "mail" { slow(30) } else { ok() });
    for n in 0..500 {
        world.post(&format!("app-{n}"), [mail(&format!("{n}@example.com"), "1")]);
    }
    settle().await;
    world.post("a", [hook("1")]);
    world.post("b", [chat("2")]);
    settle().await;
    assert_eq!((world.sent_over("hook"), world.sent_over("chat")), (owned(&[(0, "1")]), owned(&[(0, "2")])));
    assert_eq!(world.sent_over("mail").len(), PER_CHANNEL);
}

#[tokio::test(start_paused = true)]
async fn channels_take_turns() {
    let world = World::new(|_, _, _| slow(10));
    for n in 0..200 {
        let to = |channel: usize| vec![format!("{n}-{channel}@example.com")];
        let over = |channel: usize| format!("mail-{channel}");
        let letters = (0..20).map(|channel| Posted {
            recipients: to(channel),
            ..posted(Medium::Email, &over(channel), &format!("{channel}"))
        });
        world.outbox.post(&account(&format!("app-{n}")), letters.collect());
    }
    pass(99).await;
    let counts: Vec<_> = (0..20).map(|channel| world.sent_over(&format!("mail-{channel}")).len()).collect();
    assert_eq!(counts, [32; 20], "64 each ten seconds, shared fairly");
}

#[tokio::test(start_paused = true)]
async fn lanes_are_forgotten_when_nothing_waits_and_no_window_runs() {
    let world = World::new(|channel, _, _| match channel.name.as_str() {
        "dead" => fail(ErrorKind::Unavailable, "Unreachable"),
        _ => ok(),
    });
    world.post("a", [chat("1"), hook("2"), posted(Medium::Email, "dead", "3")]);
    settle().await;
    world.post("a", []);
    settle().await;
    assert!(!world.is_bare(), "the chat's window runs");
    pass(30).await;
    assert!(world.is_bare());
    world.post("nobody", []);
    assert!(world.is_bare());
}

/// What happens to an outbox.
#[derive(Clone, Debug)]
enum Step {
    /// An account hands in this set: bits of the letters 0 to 7.
    Post { account: usize, set: u8 },
    /// An account records what it was told and hands in the rest.
    Record { account: usize },
    /// A channel answers like this from now on.
    Mood { channel: usize, mood: usize },
    /// A channel's spec changed.
    Changed { channel: usize },
    /// Time passes.
    Pass { millis: u64 },
}

const CHANNELS: [(&str, Medium); 3] =
    [("chat", Medium::SlackWebhook), ("hook", Medium::Webhook), ("mail", Medium::Email)];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, any::<u8>()).prop_map(|(account, set)| Step::Post { account, set }),
        2 => (0..3_usize).prop_map(|account| Step::Record { account }),
        1 => (0..3_usize, 0..5_usize).prop_map(|(channel, mood)| Step::Mood { channel, mood }),
        1 => (0..3_usize).prop_map(|channel| Step::Changed { channel }),
        3 => prop_oneof![0..20_u64, 0..20_000_u64, 0..300_000_u64].prop_map(|millis| Step::Pass { millis }),
    ]
}

/// Every channel refuses letter 3, which shares a chat with others. Odd mails go to somebody else.
fn numbered(account: usize, number: usize) -> Posted {
    let (over, medium) = CHANNELS[number % 3];
    let recipients = if medium == Medium::Email { vec![(number % 2).to_string()] } else { vec![] };
    Posted { recipients, ..posted(medium, over, &format!("{account}-{number}")) }
}

fn is_refused(message: &Message) -> bool {
    message.letters.iter().any(|letter| letter.id.ends_with("-3"))
}

fn in_mood(mood: usize, message: &Message) -> Answer {
    match mood {
        _ if mood < 3 && is_refused(message) => fail(ErrorKind::Invalid, "Refused"),
        0 => ok(),
        1 => slow(7),
        2 => patience(Seconds(90)),
        3 => Answer::End(Duration::from_secs(3), Err(ProviderError::new(ErrorKind::Unavailable, "Down", "no"))),
        _ => Answer::Panic,
    }
}

/// A run, and what the accounts believe.
struct Story {
    world: World,
    moods: Arc<Mutex<[usize; 3]>>,
    /// Per account its set, and how much had arrived when each letter came into it.
    sets: [BTreeMap<usize, usize>; 3],
}

impl Story {
    fn new() -> Self {
        let moods: Arc<Mutex<[usize; 3]>> = Arc::default();
        let felt = Arc::clone(&moods);
        let world = World::new(move |channel, message, _| {
            let number = CHANNELS.iter().position(|(name, _)| *name == channel.name).unwrap();
            in_mood(lock(&felt)[number], message)
        });
        Self { world, moods, sets: Default::default() }
    }

    fn post(&mut self, account: usize, set: impl Fn(usize) -> bool) {
        let arrived = lock(&self.world.fake.arrived).len();
        let before = std::mem::take(&mut self.sets[account]);
        let numbers = (0..8).filter(|number| set(*number));
        self.sets[account] = numbers.map(|number| (number, *before.get(&number).unwrap_or(&arrived))).collect();
        let letters = self.sets[account].keys().map(|number| numbered(account, *number)).collect();
        self.world.outbox.post(&self::account(&account.to_string()), letters);
    }

    fn record(&mut self, account: usize) {
        let reports = self.world.outbox.reports(&self::account(&account.to_string()));
        let is_over = |number: usize| {
            let report = reports.get(&format!("{account}-{number}"));
            matches!(report, Some(Report::Sent { .. } | Report::Refused { .. }))
        };
        let set = self.sets[account].clone();
        self.post(account, |number| set.contains_key(&number) && !is_over(number));
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Post { account, set } => self.post(account, |number| set >> number & 1 == 1),
            Step::Record { account } => self.record(account),
            Step::Mood { channel, mood } => lock(&self.moods)[channel] = mood,
            Step::Changed { channel } => self.world.outbox.changed(&self::channel(CHANNELS[channel].0)),
            Step::Pass { millis } => sleep(Duration::from_millis(millis)).await,
        }
        self.check_once();
        self.check_windows();
    }

    /// While a letter is in the set it is delivered at most once, and never again after it is reported.
    fn check_once(&self) {
        let arrived = lock(&self.world.fake.arrived).clone();
        for (account, set) in self.sets.iter().enumerate() {
            for (number, since) in set {
                let id = format!("{account}-{number}");
                let times = arrived[*since..].iter().filter(|letter| letter.id == id).count();
                assert!(times <= 1, "{id} was delivered {times} times");
            }
        }
    }

    fn check_windows(&self) {
        let calls = lock(&self.world.fake.calls).clone();
        for (n, call) in calls.iter().enumerate() {
            let lane = |other: &&Call| {
                (&other.channel, &other.message.recipients) == (&call.channel, &call.message.recipients)
            };
            let Some(before) = calls[..n].iter().rev().find(lane) else { continue };
            let window = if call.channel.name != "hook" && before.good { 30 } else { 0 };
            let earliest = before.ended.unwrap_or(before.at) + window;
            assert!(call.at >= earliest, "{call:?} too soon after {before:?}");
            assert!(call.channel.name != "hook" || call.message.letters.len() == 1);
        }
    }

    /// All is well at last: everything that is in a set is delivered or refused, and nothing is remembered of it.
    async fn end(mut self) {
        *lock(&self.moods) = [0; 3];
        for (name, _) in CHANNELS {
            self.world.outbox.changed(&channel(name));
        }
        pass(DAY).await;
        self.check_once();
        for (account, set) in self.sets.iter().enumerate() {
            let verdict = |number: &usize| if *number == 3 { "Refused Refused" } else { "Sent" };
            let expected: Vec<_> =
                set.keys().map(|number| format!("{account}-{number}: {}", verdict(number))).collect();
            assert_eq!(self.world.reports(&account.to_string()), expected);
        }
        for account in 0..3 {
            self.record(account);
            assert!(self.sets[account].is_empty());
        }
        pass(60).await;
        assert!(self.world.is_bare());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_each_letter_is_delivered_once(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut story = Story::new();
            for step in steps {
                story.step(step).await;
            }
            story.end().await;
        });
    }
}
