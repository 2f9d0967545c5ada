//! One condition of a status. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::Instant;

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Says<'a> {
    /// True or False.
    pub status: bool,
    /// For programs, in PascalCase.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
}

/// Sets one condition; its time moves only with its status.
pub fn set(mut list: Vec<Condition>, kind: &str, says: &Says, generation: i64, now: Instant) -> Vec<Condition> {
    let status = if says.status { "True" } else { "False" };
    let condition = Condition {
        type_: kind.into(),
        status: status.into(),
        reason: says.reason.into(),
        message: says.message.into(),
        observed_generation: Some(generation),
        last_transition_time: Time(Timestamp::from_second(now.as_unix()).unwrap_or_default()),
    };
    match list.iter_mut().find(|condition| condition.type_ == kind) {
        Some(before) if before.status == status => {
            *before = Condition { last_transition_time: before.last_transition_time.clone(), ..condition };
        }
        Some(before) => *before = condition,
        None => list.push(condition),
    }
    list
}

/// Sets `Stalled` beside a `Ready` that says this. `hopeless`: nothing but a change of the spec can help, for which tools
/// give up waiting (kstatus: failed).
pub fn set_stalled(
    list: Vec<Condition>,
    ready: &Says,
    hopeless: bool,
    generation: i64,
    now: Instant,
) -> Vec<Condition> {
    let message = if hopeless { ready.message } else { "nothing waits for a change of the spec" };
    set(list, "Stalled", &Says { status: hopeless, reason: ready.reason, message }, generation, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_moves_with_the_status_alone() {
        let says = |status, reason| Says { status, reason, message: "m" };
        let at = |list: &[Condition]| list[0].last_transition_time.0.as_second();
        let list = set(vec![], "Ready", &says(true, "A"), 1, Instant::from_unix(10));
        let list = set(list, "Ready", &says(true, "B"), 2, Instant::from_unix(20));
        assert_eq!((at(&list), list[0].reason.as_str(), list[0].observed_generation), (10, "B", Some(2)));
        let list = set(list, "Ready", &says(false, "B"), 2, Instant::from_unix(30));
        assert_eq!((at(&list), list.len()), (30, 1));
    }
}
