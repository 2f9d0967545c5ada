//! Addresses as users write them. ASCII only: few servers take more (SMTPUTF8). Pure.

use lettre::Address;
use lettre::message::Mailbox;

use super::super::text::plain;
use crate::integration::{ErrorKind, ProviderError};

/// An address alone; `None`: no server would take it, or it could end the command that it stands in.
pub(super) fn address(text: &str) -> Option<Address> {
    let safe = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | ',' | ';');
    text.chars().all(safe).then(|| text.parse().ok()).flatten()
}

/// `tokens@example.com` or `Virtual accounts <tokens@example.com>`; `field` is where it stands in the spec.
pub(super) fn mailbox(field: &str, text: &str) -> Result<Mailbox, ProviderError> {
    let invalid = || {
        let message = format!("{field} must be like tokens@example.com or Virtual accounts <tokens@example.com>");
        ProviderError::new(ErrorKind::Invalid, "InvalidAddress", message)
    };
    let (name, text) = match text.trim().strip_suffix('>') {
        Some(named) => named.rsplit_once('<').ok_or_else(invalid)?,
        None => ("", text.trim()),
    };
    let name = plain(name.trim().trim_matches('"'));
    let mailbox = Mailbox::new((!name.is_empty()).then_some(name), address(text.trim()).ok_or_else(invalid)?);
    // The library reads the header that it has written, and refuses the message if it cannot.
    mailbox.to_string().parse::<Mailbox>().map_err(|_| invalid())?;
    Ok(mailbox)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_word_of_ascii() {
        for good in ["a@b.example", "first.last+tag@example.com", "x_y-z@[192.0.2.1]"] {
            assert_eq!(address(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a b@c.example",
            "a@b.example\r\nRCPT TO:<x@y.example>",
            "\"a\r\nDATA\"@b.example",
            "a@b.example>,<c@d.example",
            "größe@example.com",
            "a@größe.example",
        ] {
            assert!(address(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_sender_may_have_a_name_of_any_letters() {
        let parts = |text| mailbox("spec.email.from", text).map(|m| (m.name, m.email.to_string()));
        let named = |name: &str| Ok((Some(name.to_owned()), "t@example.com".to_owned()));
        assert_eq!(parts("t@example.com"), Ok((None, "t@example.com".into())));
        assert_eq!(parts("<t@example.com>"), Ok((None, "t@example.com".into())));
        assert_eq!(parts("Virtual accounts <t@example.com>"), named("Virtual accounts"));
        assert_eq!(parts("Größe & Söhne, (prod) <t@example.com>"), named("Größe & Söhne, (prod)"));
        assert_eq!(parts("\"Doe, John\" <t@example.com>"), named("Doe, John"));
        assert_eq!(parts("A\r\nBcc: x@y.example <t@example.com>"), named("A Bcc: x@y.example"));
        for bad in ["Name", "Name t@example.com>", "a <t@example.com", "x <t@exa mple.com>", "x <ü@example.com>"] {
            assert_eq!(parts(bad).unwrap_err().reason, "InvalidAddress", "{bad}");
        }
    }
}
