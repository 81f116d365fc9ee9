//! Which passwords are accepted. Rules follow NIST SP 800-63B-4 §3.1.1: length, no composition rules.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::InvalidField;

/// Shortest and longest password in characters. The upper bound keeps one request from costing more than another.
const LENGTH: std::ops::RangeInclusive<usize> = 10..=128;

/// A password as it was typed; overwritten when dropped, never shown.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Wraps what was typed.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Whether an account may be made with it.
    pub fn check(&self) -> Result<(), InvalidField> {
        let length = self.0.chars().count();
        let distinct = self.0.chars().collect::<std::collections::BTreeSet<_>>().len();
        if !LENGTH.contains(&length) {
            return Err(InvalidField::new(
                "password",
                format!("{} to {} characters, of any kind", LENGTH.start(), LENGTH.end()),
            ));
        }
        if distinct < 4 {
            return Err(InvalidField::new("password", "at least four different characters"));
        }
        Ok(())
    }

    /// The bytes to hash. A login may send anything; what no account can have is cut here, so that a huge one costs
    /// no more than any other (it cannot match: no stored password is that long).
    pub fn bytes(&self) -> &[u8] {
        let most = LENGTH.end() * 4 + 1;
        &self.0.as_bytes()[..self.0.len().min(most)]
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_decides_and_composition_does_not() {
        for good in ["correct horse", "0123456789", "ключ-от-дома", &"abcd".repeat(32)] {
            assert_eq!(Password::new(good.to_owned()).check(), Ok(()), "{good}");
        }
        for bad in ["", "short", "aaaaaaaaaaaa", "abababababab", &"abcd".repeat(33)] {
            assert_eq!(
                Password::new(bad.to_owned()).check().unwrap_err().field,
                "password",
                "{bad}"
            );
        }
    }

    #[test]
    fn two_different_overlong_passwords_do_not_become_an_acceptable_one() {
        let long = Password::new("x".repeat(100_000));
        assert_eq!(long.bytes().len(), 513);
        let longest_acceptable = Password::new("🔑".repeat(128));
        assert_eq!(longest_acceptable.bytes().len(), 512);
    }

    #[test]
    fn a_password_never_shows_in_debug_output() {
        assert_eq!(format!("{:?}", Password::new("correct horse".into())), "Password(…)");
    }
}
