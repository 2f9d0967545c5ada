//! What a mail says, as text and as HTML. Pure. Everything that anybody wrote is escaped; nothing is loaded from elsewhere.

use std::fmt::Write as _;

use super::super::text::plain as words;
use super::super::{Content, Letter, Message, Text};
use crate::api::AccountId;

/// Subject and both forms of a mail.
pub(super) struct Page {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// Accounts that the subject of several notices names.
const NAMED: usize = 2;

impl Page {
    pub(super) fn of(message: &Message) -> Self {
        let texts: Vec<Text> =
            message.letters.iter().map(|letter| letter.text(&message.cluster, message.now)).collect();
        let subject = match texts.as_slice() {
            [one] => one.title.clone(),
            _ => digest(&message.letters),
        };
        let why = why(&message.letters);
        Self { text: plain(&subject, &texts, why), html: html(&subject, &texts, why), subject }
    }
}

/// `3 notices: team/a, team/b and 1 more`.
fn digest(letters: &[Letter]) -> String {
    let mut accounts: Vec<&AccountId> = Vec::new();
    for letter in letters {
        if !accounts.contains(&&letter.account) {
            accounts.push(&letter.account);
        }
    }
    let named: Vec<String> = accounts.iter().take(NAMED).map(|account| words(&account.to_string())).collect();
    let more = match accounts.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{} notices: {}{more}", letters.len(), named.join(", "))
}

/// Why somebody gets this mail.
fn why(letters: &[Letter]) -> &'static str {
    if letters.iter().all(|letter| letter.content == Content::Test) {
        "Somebody asked the NotificationChannel for a test message."
    } else {
        "You get this because the account's spec.notificationTargets names your address."
    }
}

fn plain(subject: &str, texts: &[Text], why: &str) -> String {
    let mut page = String::new();
    if texts.len() > 1 {
        page.push_str(subject);
        page.push_str("\n\n");
    }
    for text in texts {
        let _ = writeln!(page, "{}\n{}\n", text.title, "-".repeat(text.title.chars().count().min(72)));
        let _ = writeln!(page, "{}\n\nWhat to do: {}\n", text.body, text.todo);
        for fact in &text.facts {
            let _ = writeln!(page, "{}: {}", fact.name, fact.value);
        }
        page.push_str("\n\n");
    }
    // The usual mark of a signature, trailing space included: readers show what follows in grey.
    let _ = writeln!(page, "-- \n{why}");
    page
}

fn html(subject: &str, texts: &[Text], why: &str) -> String {
    let mut page = format!(
        concat!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">",
            "<meta name=\"color-scheme\" content=\"light dark\"><title>{}</title></head>\n",
            "<body style=\"font-family:sans-serif;line-height:1.4;max-width:48em\">\n",
        ),
        escape(subject)
    );
    if texts.len() > 1 {
        let _ = writeln!(page, "<p>{}</p>", escape(subject));
    }
    for text in texts {
        section(&mut page, text);
    }
    let _ = writeln!(page, "<p><small>{}</small></p>\n</body></html>", escape(why));
    page
}

/// No colour of text or ground is set, so that a dark reader may choose both.
fn section(page: &mut String, text: &Text) {
    let _ = writeln!(page, "<h2 style=\"font-size:1.1em\" dir=\"auto\">{}</h2>", escape(&text.title));
    let _ = writeln!(page, "<p dir=\"auto\">{}</p>", escape(&text.body));
    let _ = writeln!(page, "<p dir=\"auto\"><b>What to do:</b> {}</p>", escape(&text.todo));
    page.push_str("<table style=\"border-collapse:collapse\">\n");
    for fact in &text.facts {
        let _ = writeln!(
            page,
            concat!(
                "<tr><th scope=\"row\" style=\"text-align:left;vertical-align:top;padding:.2em 1em .2em 0\">{}</th>",
                "<td dir=\"auto\" style=\"text-align:left;padding:.2em 0;overflow-wrap:anywhere\">{}</td></tr>",
            ),
            escape(fact.name),
            escape(&fact.value)
        );
    }
    page.push_str("</table>\n");
}

/// For text and for attributes in quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Instant;

    fn letter(name: &str) -> Letter {
        Letter {
            id: name.into(),
            incident: name.into(),
            account: AccountId::new("team", name),
            owner: None,
            description: Some("<script>alert(\"1\")</script> & 'more'".into()),
            jti: "jti".into(),
            at: Instant::from_unix(1_800_000_000),
            content: Content::Retired { ended_at: Instant::from_unix(1_800_000_000) },
        }
    }

    fn page(names: &[&str]) -> Page {
        let letters = names.iter().map(|name| letter(name)).collect();
        let now = Instant::from_unix(1_800_000_060);
        Page::of(&Message { letters, recipients: Vec::new(), cluster: "prod".into(), now })
    }

    #[test]
    fn a_subject_names_two_accounts_and_counts_the_others() {
        assert_eq!(page(&["a"]).subject, "team/a: the previous token ended");
        assert_eq!(page(&["a", "a"]).subject, "2 notices: team/a");
        assert_eq!(page(&["a", "b"]).subject, "2 notices: team/a, team/b");
        assert_eq!(page(&["a", "b", "a", "c", "d"]).subject, "5 notices: team/a, team/b and 2 more");
    }

    #[test]
    fn both_forms_have_a_section_for_each_letter() {
        let page = page(&["a", "b"]);
        for form in [&page.text, &page.html] {
            for part in ["2 notices: team/a, team/b", "team/a: the previous", "team/b: the previous", "What to do:"] {
                assert!(form.contains(part), "{part}: {form}");
            }
        }
        assert!(page.text.contains("\nAccount: team/a\nCluster: prod\n"), "{}", page.text);
        assert!(page.text.contains("2027-01-15T08:00:00Z (1 minute ago)"), "{}", page.text);
    }

    #[test]
    fn what_users_wrote_is_no_markup() {
        let page = page(&["a"]);
        assert!(page.text.contains("<script>alert(\"1\")</script> & 'more'"));
        assert!(page.html.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;more&#39;"));
        assert!(!page.html.contains("<script"));
    }
}
