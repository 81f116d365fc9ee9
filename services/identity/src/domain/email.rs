//! E-mail addresses as account names.

use zeroize::Zeroizing;

use super::InvalidField;

/// Longest address that RFC 5321 lets a server accept (a path of 256 octets, less its brackets).
const LONGEST: usize = 254;

/// An address in the one form under which it is looked up: trimmed, lower case.
///
/// RFC 5321 lets a server tell upper from lower case before the `@`; none of size does, and two accounts that differ
/// in case only would be a trap for their owner.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress(Zeroizing<String>);

impl EmailAddress {
    /// Parses an address for registration: one `@`, a dotted domain, no spaces or control characters.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        let rule = || {
            InvalidField::new(
                "email",
                format!("an address like name@example.org of at most {LONGEST} characters"),
            )
        };
        let normal = Self::for_lookup(text);
        let address = normal.as_str();
        let (local, domain) = address.rsplit_once('@').ok_or_else(rule)?;
        let dotted = domain.contains('.') && domain.split('.').all(|label| !label.is_empty());
        let plain = |part: &str| part.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '@');
        let in_bounds = address.len() <= LONGEST && (1..=64).contains(&local.len());
        if in_bounds && dotted && plain(local) && plain(domain) {
            Ok(normal)
        } else {
            Err(rule())
        }
    }

    /// Normalizes whatever a login sent. Never fails: a malformed address is an unknown one and must take as long.
    pub fn for_lookup(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_lowercase()))
    }

    /// The normalized address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EmailAddress(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_again_however_it_is_typed() {
        let parsed = EmailAddress::parse(" Ada.Lovelace@Example.ORG ").unwrap();
        assert_eq!(parsed.as_str(), "ada.lovelace@example.org");
        assert_eq!(parsed, EmailAddress::for_lookup("ada.lovelace@EXAMPLE.org\n"));
    }

    #[test]
    fn what_no_server_could_deliver_to_is_refused() {
        let long = format!("a@{}.org", "b".repeat(250));
        for bad in [
            "",
            "a",
            "@b.org",
            "a@",
            "a@b",
            "a@b.",
            "a@.org",
            "a b@c.org",
            "a@b@c.org",
            "a\u{0}@b.org",
            &long,
        ] {
            let error = EmailAddress::parse(bad).unwrap_err();
            assert_eq!(error.field, "email", "{bad}");
        }
    }

    #[test]
    fn an_address_never_shows_in_debug_output() {
        assert_eq!(format!("{:?}", EmailAddress::for_lookup("a@b.org")), "EmailAddress(…)");
    }
}
