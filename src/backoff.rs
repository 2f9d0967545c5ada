//! How long to wait after failures: a pure function, so that a plan made twice names the same instant.

use crate::api::Seconds;

/// The wait after `failures` failures in a row: 1 s, doubling up to `cap`, of which up to a quarter is taken off by a
/// jitter that depends on `seed` and `failures` alone. Never under 1 s; over `cap` only if that is itself under 1 s.
pub fn delay(failures: u32, cap: Seconds, seed: &str) -> Seconds {
    let full = (1_i64 << failures.saturating_sub(1).min(40)).min(cap.0).max(1);
    let span = full / 4 + 1;
    Seconds(full - i64::try_from(hash(seed, failures) % span.unsigned_abs()).unwrap_or(0))
}

/// FNV-1a, finished by a mix that makes the low bits as good as the high ones. Its values must not change between
/// versions of the standard library, so `DefaultHasher` would not do.
fn hash(seed: &str, failures: u32) -> u64 {
    let bytes = seed.bytes().chain(failures.to_le_bytes());
    let sum = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let sum = (sum ^ (sum >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    sum ^ (sum >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Seconds = Seconds::minutes(15);

    #[test]
    fn doubles_from_a_second_to_the_cap() {
        for failures in 0_u32..100 {
            let full = 1_i64 << failures.saturating_sub(1).min(20);
            let full = full.min(CAP.0);
            let wait = delay(failures, CAP, "uid").0;
            assert!(wait >= 1 && wait <= full && wait >= full - full / 4, "{failures}: {wait}");
        }
        assert_eq!(delay(0, CAP, "uid"), Seconds(1));
        assert_eq!(delay(1, CAP, "uid"), Seconds(1));
    }

    #[test]
    fn waits_at_least_a_second_under_any_cap() {
        for cap in [i64::MIN, 0, 1] {
            assert_eq!(delay(u32::MAX, Seconds(cap), "uid"), Seconds(1));
        }
        assert!(delay(u32::MAX, Seconds(i64::MAX), "uid").0 > 1);
    }

    #[test]
    fn jitter_is_a_function_of_seed_and_failures_and_spreads() {
        assert_eq!(delay(9, CAP, "uid"), delay(9, CAP, "uid"));
        let waits: std::collections::HashSet<_> = (0..100).map(|n| delay(12, CAP, &format!("uid-{n}"))).collect();
        assert!(waits.len() > 50, "{} different waits", waits.len());
    }

    #[test]
    fn values_are_pinned() {
        let waits: Vec<i64> = (8..12).map(|failures| delay(failures, CAP, "pinned").0).collect();
        assert_eq!(waits, PINNED);
    }

    const PINNED: [i64; 4] = [109, 193, 413, 708];
}
