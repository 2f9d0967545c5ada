//! What the `keys` command asks of the operator: an annotation on the ring's Secret, a JSON list, so that two commands
//! can queue. Only the operator changes the ring; it clears the annotation in the write that carries the requests out.

use serde::{Deserialize, Serialize};

/// The annotation on the ring's Secret.
pub const REQUEST_ANNOTATION: &str = "virtualaccounts.dev/key-request";

/// Requests that may wait at once, and the bytes that are read of them.
const MAX_REQUESTS: usize = 16;
const MAX_BYTES: usize = 16 * 1024;

/// One request; its id lets the command see that it was handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the command.
    pub id: String,
    /// What is asked.
    #[serde(flatten)]
    pub action: Action,
}

/// What an administrator can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Action {
    /// The standby signs as soon as verifiers know it.
    Rotate,
    /// This key is in foreign hands, or is gone.
    Compromise {
        /// Which key.
        kid: String,
    },
    /// Every key is.
    CompromiseAll,
    /// A ring may be created.
    Init {
        /// Entries whose key is unknown are to be replaced.
        #[serde(default)]
        accept_reissue: bool,
    },
}

/// The requests of an annotation: what cannot be read is left out, and at most 16 are taken, the oldest first.
pub fn read_requests(annotation: Option<&str>) -> Vec<Request> {
    let items: Vec<serde_json::Value> = annotation
        .filter(|text| text.len() <= MAX_BYTES)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).take(MAX_REQUESTS).collect()
}

/// The annotation with one request more; `None` if too many wait already.
pub fn add_request(annotation: Option<&str>, request: Request) -> Option<String> {
    let mut requests = read_requests(annotation);
    if requests.len() >= MAX_REQUESTS {
        return None;
    }
    requests.push(request);
    serde_json::to_string(&requests).ok().filter(|text| text.len() <= MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_queue_and_are_read_back() {
        let actions = [
            Action::Rotate,
            Action::Compromise { kid: "k".into() },
            Action::CompromiseAll,
            Action::Init { accept_reissue: true },
        ];
        let requests: Vec<_> =
            actions.into_iter().enumerate().map(|(n, action)| Request { id: n.to_string(), action }).collect();
        let text =
            requests.iter().fold(None, |text: Option<String>, request| add_request(text.as_deref(), request.clone()));
        assert_eq!(read_requests(text.as_deref()), requests);
        assert_eq!(
            read_requests(Some(r#"[{"id":"1","action":"init"}]"#))[0].action,
            Action::Init { accept_reissue: false }
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_the_queue_is_bounded() {
        assert_eq!(read_requests(None), []);
        for text in
            ["", "{", "{}", "[1,{}]", r#"[{"id":"1","action":"explode"}]"#, &"[".repeat(20_000), &"[".repeat(9_000)]
        {
            assert_eq!(read_requests(Some(text)), []);
        }
        let mixed = r#"[{"id":"1","action":"compromise"},{"id":"2","action":"rotate"}]"#;
        assert_eq!(read_requests(Some(mixed)), [Request { id: "2".into(), action: Action::Rotate }]);
        let full = format!("[{}]", vec![r#"{"id":"1","action":"rotate"}"#; 17].join(","));
        assert_eq!(read_requests(Some(&full)).len(), 16);
        assert_eq!(add_request(Some(&full), Request { id: "x".into(), action: Action::Rotate }), None);
    }
}
