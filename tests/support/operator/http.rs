//! What the operator answers on its two listeners.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::Operator;

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head, as received.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

impl Operator {
    /// `GET` on the public listener.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_with(path, "")
    }

    /// The same with more header lines, each ended by CRLF.
    pub(crate) fn get_with(&self, path: &str, headers: &str) -> Answer {
        http(&self.public, "GET", path, headers, "")
    }

    /// `GET` on the ops listener.
    pub(crate) fn get_ops(&self, path: &str) -> Answer {
        http(&self.ops, "GET", path, "", "")
    }

    pub(crate) fn metrics(&self) -> String {
        self.get_ops("/metrics").body
    }

    pub(crate) fn jwks(&self) -> Value {
        self.get("/jwks.json").json()
    }

    /// What the introspection endpoint says of a token to a caller that may ask.
    pub(crate) fn introspect(&self, token: &str) -> Value {
        let answer = self.introspect_as(Some(&self.caller), token);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Whether it says that the token is good.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        self.introspect(token)["active"] == true
    }

    /// The same as somebody else.
    pub(crate) fn introspect_as(&self, caller: Option<&str>, token: &str) -> Answer {
        let authorization = caller.map(|caller| format!("authorization: Bearer {caller}\r\n")).unwrap_or_default();
        let headers = format!("{authorization}content-type: application/x-www-form-urlencoded\r\n");
        http(&self.public, "POST", "/introspect", &headers, &format!("token={token}"))
    }
}

/// One request on a connection of its own. All our answers have a length, so the end of the connection is the end of it.
fn http(address: &str, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let answer = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n");
        stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("{method} {path}: no HTTP answer: {answer:?}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
