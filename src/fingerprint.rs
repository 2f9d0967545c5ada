//! Short names for long things: the same parts give the same name, in every process and version.

use aws_lc_rs::digest::{SHA256, digest};

/// The first `digits` hexadecimal digits of SHA-256 over the parts, a line each.
pub fn fingerprint(parts: &[&str], digits: usize) -> String {
    let hash = digest(&SHA256, parts.join("\n").as_bytes());
    let digits_of = |byte: &u8| format!("{byte:02x}");
    let text: Vec<String> = hash.as_ref().iter().map(digits_of).collect();
    text.concat().chars().take(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_pinned() {
        assert_eq!(fingerprint(&["a", "b"], 16), "7e18f737311b2dc3".to_owned());
        assert_ne!(fingerprint(&["a", "b"], 16), fingerprint(&["ab"], 16));
    }
}
