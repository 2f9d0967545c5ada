//! What a mail server's answer, or none, means. Pure. Answers may quote the command: what is secret or an address in them is
//! left out.

use std::error::Error as _;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp;
use rustls::CertificateError;

use crate::integration::{Credential, ErrorKind, ProviderError, line};

/// What was going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Connecting, up to the answer to EHLO.
    Connect,
    /// STARTTLS.
    Encrypt,
    /// AUTH.
    Login,
    /// NOOP.
    Check,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Content,
}

/// A server's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `550 5.1.1`: that much can be logged.
    pub(super) code: String,
    /// Whether the connection is of no further use (421).
    pub(super) closes: bool,
    pub(super) error: ProviderError,
}

/// What must not be told, in the forms in which a server may repeat it.
#[derive(Default)]
pub(super) struct Secrets(Vec<zeroize::Zeroizing<String>>);

impl Secrets {
    pub(super) fn of(username: &Credential, password: &Credential) -> Self {
        let (username, password) = (username.expose(), password.expose());
        let all = [
            username.to_owned(),
            password.to_owned(),
            STANDARD.encode(username),
            STANDARD.encode(password),
            STANDARD.encode(format!("\0{username}\0{password}")),
        ];
        let mut all: Vec<zeroize::Zeroizing<String>> = all.into_iter().map(Into::into).collect();
        // The longest first: a password may begin with the user's name, and its end must not be left.
        all.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(all)
    }

    /// One line, without words that are secret, and without addresses, which are personal.
    fn discreet(&self, said: &str) -> String {
        let mut said = said.to_owned();
        for secret in &self.0 {
            said = said.replace(secret.as_str(), "…");
        }
        let word = |word| if str::contains(word, '@') { "…" } else { word };
        line(&said.split_whitespace().map(word).collect::<Vec<_>>().join(" "))
    }
}

/// What an answer other than success means; `None`: there was no whole answer.
pub(super) fn refusal(step: Step, error: &smtp::Error, secrets: &Secrets) -> Option<Refusal> {
    let code = u16::from(error.status()?);
    let said = error.source().map(|said| secrets.discreet(&said.to_string())).unwrap_or_default();
    let enhanced = said.split(' ').next().filter(|word| is_enhanced(word)).unwrap_or_default();
    let (kind, reason) = meaning(step, code, enhanced);
    let message = format!("the mail server answered {code} to {}: {said}{}", what(step), cure(reason, step));
    Some(Refusal {
        code: format!("{code} {enhanced}").trim_end().to_owned(),
        closes: code == 421,
        error: ProviderError::new(kind, reason, message),
    })
}

/// Codes of RFC 5321, 4954 and 3463.
fn meaning(step: Step, code: u16, enhanced: &str) -> (ErrorKind, &'static str) {
    match (step, code) {
        // Google's daily limit, with 550.
        _ if enhanced == "5.4.5" => (ErrorKind::Throttled, "RateLimited"),
        // The system shuts down, is full or is not configured.
        (_, 421) if enhanced.starts_with("4.3.") => (ErrorKind::Unavailable, "ServiceUnavailable"),
        (_, 421) => (ErrorKind::Throttled, "RateLimited"),
        (Step::Login, ..500) => (ErrorKind::Unavailable, "LoginDeferred"),
        (_, 530) => (ErrorKind::Denied, "LoginRequired"),
        (Step::Login, _) | (_, 534 | 535 | 538) => (ErrorKind::Denied, "LoginRefused"),
        (Step::Recipient, ..500) => (ErrorKind::Throttled, "RecipientsDeferred"),
        (_, ..500) if enhanced.starts_with("4.7.") => (ErrorKind::Throttled, "RateLimited"),
        (_, ..500) => (ErrorKind::Unavailable, "Deferred"),
        // The address is the channel's, and the message is good.
        (Step::Sender, _) => (ErrorKind::Denied, "SenderRefused"),
        (Step::Recipient, _) => (ErrorKind::Invalid, "RecipientsRefused"),
        (Step::Content, _) => (ErrorKind::Invalid, "ContentRefused"),
        (Step::Connect | Step::Encrypt | Step::Check, _) => (ErrorKind::Unavailable, "ServiceUnavailable"),
    }
}

/// `5.7.8` (RFC 3463).
fn is_enhanced(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| matches!(part.len(), 1..=3) && part.bytes().all(|b| b.is_ascii_digit()))
}

fn what(step: Step) -> &'static str {
    match step {
        Step::Connect => "the connection",
        Step::Encrypt => "STARTTLS",
        Step::Login => "the login",
        Step::Check => "NOOP",
        Step::Sender => "the sender's address",
        Step::Recipient => "a recipient's address",
        Step::Content => "the message",
    }
}

fn cure(reason: &str, step: Step) -> &'static str {
    match (reason, step) {
        ("LoginRefused", Step::Login) => "; check the user name and the password that spec.email.auth names",
        ("LoginRefused" | "LoginRequired", _) => "; name a user and a password in spec.email.auth",
        ("SenderRefused", _) => "; check spec.email.from, and that the login may send as that",
        _ => "",
    }
}

/// No whole answer. The library's own words for an unreadable one are left out: they quote it.
pub(super) fn broken(step: Step, host: &str, error: &smtp::Error) -> ProviderError {
    let unavailable = |reason, message: String| ProviderError::new(ErrorKind::Unavailable, reason, message);
    match cause(error) {
        Some(Cause::Tls(error)) => tls(host, error),
        Some(Cause::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            unavailable("Timeout", "the mail server did not take the connection in time".into())
        }
        Some(Cause::Io(error)) if step == Step::Connect => {
            unavailable("Unreachable", format!("cannot connect to the mail server: {}", line(&error.to_string())))
        }
        Some(Cause::Io(error)) => unavailable(
            "ConnectionBroken",
            format!("the connection broke at {}: {}", what(step), line(&error.to_string())),
        ),
        None => unavailable(
            "UnreadableAnswer",
            format!("the answer to {} is not one of a mail server: are spec.email.host and port right?", what(step)),
        ),
    }
}

/// No answer in time.
pub(super) fn silent(step: Step) -> ProviderError {
    let hint = match step {
        Step::Connect => "; where TLS begins with the first byte, set spec.email.security: TLS",
        _ => "",
    };
    ProviderError::new(ErrorKind::Unavailable, "Timeout", format!("no answer in time to {}{hint}", what(step)))
}

/// An answer that does not belong to the command. So an answer that somebody put before the encrypted ones is noticed.
pub(super) fn unexpected(step: Step) -> ProviderError {
    let message = format!("the answer to {} is not one that belongs there", what(step));
    ProviderError::new(ErrorKind::Unavailable, "UnexpectedAnswer", message)
}

enum Cause<'a> {
    Tls(&'a rustls::Error),
    Io(&'a io::Error),
}

/// The deepest cause that says something; errors of I/O hide what they hold.
fn cause(error: &smtp::Error) -> Option<Cause<'_>> {
    let mut next = error.source();
    while let Some(this) = next {
        if let Some(io) = this.downcast_ref::<io::Error>() {
            let tls = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            return Some(tls.map_or(Cause::Io(io), Cause::Tls));
        }
        next = this.source();
    }
    None
}

fn tls(host: &str, error: &rustls::Error) -> ProviderError {
    use CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer};
    let (reason, message) = match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => (
            "UnknownAuthority",
            "nobody whom the operator trusts has signed the mail server's certificate; put the certificate of who has into a Secret and name it in spec.email.caBundle".to_owned(),
        ),
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => (
            "CertificateNameMismatch",
            format!("the mail server's certificate is not one for {host}; set spec.email.host to a name that it has"),
        ),
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            ("CertificateExpired", "the mail server's certificate has expired; its owner must renew it".to_owned())
        }
        rustls::Error::InvalidMessage(_) => (
            "TlsFailed",
            "the mail server does not speak TLS at this point; set spec.email.security: StartTLS, or the port at which TLS begins with the first byte".to_owned(),
        ),
        other => ("TlsFailed", format!("TLS with the mail server failed: {}", line(&other.to_string()))),
    };
    ProviderError::new(ErrorKind::Unavailable, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_means_one_thing() {
        use ErrorKind::{Denied, Invalid, Throttled, Unavailable};
        for (step, code, enhanced, kind, reason) in [
            (Step::Connect, 421, "4.3.2", Unavailable, "ServiceUnavailable"),
            (Step::Connect, 421, "", Throttled, "RateLimited"),
            (Step::Connect, 554, "", Unavailable, "ServiceUnavailable"),
            (Step::Encrypt, 454, "", Unavailable, "Deferred"),
            (Step::Login, 454, "4.7.0", Unavailable, "LoginDeferred"),
            (Step::Login, 421, "4.7.0", Throttled, "RateLimited"),
            (Step::Login, 535, "5.7.8", Denied, "LoginRefused"),
            (Step::Login, 534, "5.7.9", Denied, "LoginRefused"),
            (Step::Login, 550, "", Denied, "LoginRefused"),
            (Step::Sender, 530, "5.7.0", Denied, "LoginRequired"),
            (Step::Sender, 535, "", Denied, "LoginRefused"),
            (Step::Sender, 550, "", Denied, "SenderRefused"),
            (Step::Sender, 553, "5.7.1", Denied, "SenderRefused"),
            (Step::Sender, 451, "4.7.1", Throttled, "RateLimited"),
            (Step::Sender, 452, "4.3.1", Unavailable, "Deferred"),
            (Step::Recipient, 450, "4.2.1", Throttled, "RecipientsDeferred"),
            (Step::Recipient, 550, "5.1.1", Invalid, "RecipientsRefused"),
            (Step::Recipient, 550, "5.4.5", Throttled, "RateLimited"),
            (Step::Content, 554, "5.6.0", Invalid, "ContentRefused"),
            (Step::Content, 451, "4.3.0", Unavailable, "Deferred"),
            (Step::Content, 450, "4.7.28", Throttled, "RateLimited"),
        ] {
            assert_eq!(meaning(step, code, enhanced), (kind, reason), "{step:?} {code} {enhanced}");
        }
    }

    #[test]
    fn what_a_server_quotes_is_left_out() {
        let credential = |text: &str| Credential::new(text.to_owned());
        let secrets = Secrets::of(&credential("alice"), &credential("pass word"));
        for said in [
            "5.7.8 no: pass word",
            "5.7.8 no: xpass wordx",
            &format!("5.7.8 {}", STANDARD.encode("pass word")),
            &format!("5.7.8 AUTH PLAIN {}", STANDARD.encode("\0alice\0pass word")),
            "5.1.1 <bob@example.com>: alice\r\nunknown",
        ] {
            let told = secrets.discreet(said);
            for secret in ["pass word", "alice", "bob", &STANDARD.encode("pass word")] {
                assert!(!told.contains(secret), "{told}");
            }
            assert!(told.starts_with("5.") && told.contains('…') && !told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn no_part_of_a_password_is_left() {
        let credential = |text: &str| Credential::new(text.to_owned());
        let secrets = Secrets::of(&credential("alice"), &credential("alice-2030"));
        assert_eq!(secrets.discreet("5.7.8 alice: alice-2030 is wrong"), "5.7.8 …: … is wrong");
    }

    #[test]
    fn only_three_numbers_are_an_enhanced_code() {
        for (word, is) in [("5.7.8", true), ("4.7.139", true), ("5.7", false), ("5.7.x", false), ("1.2.3.4", false)] {
            assert_eq!(is_enhanced(word), is, "{word}");
        }
    }
}
