//! Names that parse once, at the edge. Inside Meridian an invalid name cannot be written down.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use arrayvec::ArrayString;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name in characters. Short enough that `meridian-<region>` and `ingest-<pool>` stay DNS labels.
pub const MAX_NAME: usize = 40;

/// The pattern that names share with DNS labels, as regular expressions in schemas see it.
pub const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// A text that is not a valid name, code or number of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{value}' is not a valid {what}: {rule}")]
pub struct InvalidName {
    /// What the text should have been, in words.
    pub what: &'static str,
    /// The text, cut to a length that is safe to print.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        Self {
            what,
            value: value.chars().take(60).collect(),
            rule,
        }
    }
}

/// Reads a text where it lies, without a copy of it.
pub(crate) struct Parsed<T> {
    what: &'static str,
    read: PhantomData<T>,
}

impl<T> Parsed<T> {
    pub(crate) fn new(what: &'static str) -> Self {
        let read = PhantomData;
        Self { what, read }
    }
}

impl<T: FromStr<Err = InvalidName>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string that is a valid {}", self.what)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

fn is_dns_label(text: &str) -> bool {
    let inside = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty()
        && text.len() <= MAX_NAME
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:expr, $valid:expr, $pattern:expr, $min:expr, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ArrayString<$max>);

        impl $name {
            /// Parses the text.
            ///
            /// # Errors
            /// [`InvalidName`] says which rule the text breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                let valid: fn(&str) -> bool = $valid;
                let kept = valid(text).then(|| ArrayString::from(text).ok()).flatten();
                kept.map(Self).ok_or_else(|| InvalidName::new($what, text, $rule))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed::new($what))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": $min, "maxLength": $max, "pattern": $pattern })
            }
        }
    };
}

macro_rules! dns_label_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        text_newtype!(
            $(#[$doc])* $name, $what,
            "1 to 40 characters a-z, 0-9 and '-', beginning and ending with a letter or digit",
            is_dns_label, NAME_PATTERN, 1, 40
        );
    };
}

dns_label_name!(
    /// A region: one or more clusters inside one jurisdiction, for example `eu`.
    RegionName, "region name"
);
dns_label_name!(
    /// A tenant: one organization's partition in one jurisdiction, for example `stride-eu`.
    TenantId, "tenant id"
);
dns_label_name!(
    /// An organization: a controller in the law's sense, for example `stride`.
    OrganizationName, "organization name"
);
dns_label_name!(
    /// A jurisdiction: a law and the countries where it holds, for example `eu`.
    JurisdictionName, "jurisdiction name"
);
dns_label_name!(
    /// A party: a legal entity, for example `stride-inc`.
    PartyName, "party name"
);

/// The officially assigned ISO 3166-1 alpha-2 codes, in their order.
const ISO_3166_1: &str = "\
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ \
CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR \
GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP \
KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT \
MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW \
SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ \
UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

fn is_country(text: &str) -> bool {
    let Ok(code) = <[u8; 2]>::try_from(text.as_bytes()) else {
        return false;
    };
    // Each with the space after it, which the last one has not.
    let (codes, last) = ISO_3166_1.as_bytes().as_chunks::<3>();
    codes.binary_search_by(|[a, b, _]| [*a, *b].cmp(&code)).is_ok() || last == code
}

fn is_subdivision(text: &str) -> bool {
    text.split_once('-').is_some_and(|(country, part)| {
        is_country(country)
            && (1..=3).contains(&part.len())
            && part.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    })
}

text_newtype!(
    /// A country by its ISO 3166-1 alpha-2 code, for example `DE`.
    CountryCode, "country code", "an assigned ISO 3166-1 alpha-2 code such as DE",
    is_country, "^[A-Z]{2}$", 2, 2
);

text_newtype!(
    /// A part of a country by its ISO 3166-2 code, for example `CA-QC`. Laws may differ inside a country.
    SubdivisionCode, "subdivision code", "an ISO 3166-2 code such as CA-QC",
    is_subdivision, "^[A-Z]{2}-[A-Z0-9]{1,3}$", 4, 6
);

impl SubdivisionCode {
    /// The country that this is a part of.
    #[must_use]
    pub fn country(&self) -> &str {
        self.0.split_once('-').map_or(self.as_str(), |(country, _)| country)
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)))
}

text_newtype!(
    /// The SHA-256 of a document kept elsewhere, for example a transfer impact assessment.
    DocumentDigest, "document digest", "'sha256:' and 64 lower-case hexadecimal digits",
    is_digest, "^sha256:[0-9a-f]{64}$", 71, 71
);

macro_rules! growing_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// This number.
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// As a plain number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// As the signed number that PostgreSQL and Kubernetes store.
            #[must_use]
            pub fn as_i64(self) -> i64 {
                i64::try_from(self.0).unwrap_or(i64::MAX)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                text.parse()
                    .map(Self)
                    .map_err(|_| InvalidName::new(stringify!($name), text, "a whole number, not negative"))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "integer", "format": "int64", "minimum": 0 })
            }
        }
    };
}

growing_number!(
    /// Counts the homes a tenant has had. A write that carries an old epoch is fenced.
    Epoch
);
growing_number!(
    /// Counts the compiled policies. It only grows.
    PolicyRevision
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_short_dns_label() {
        for good in ["eu", "stride-eu", "a", "0", &"a".repeat(MAX_NAME)] {
            assert_eq!(RegionName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "EU", "-eu", "eu-", "e_u", "eu.us", "é", &"a".repeat(MAX_NAME + 1)] {
            assert!(RegionName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_name_says_what_it_should_have_been() {
        let refused = TenantId::new("Stride EU").unwrap_err().to_string();
        assert!(refused.contains("'Stride EU' is not a valid tenant id"), "{refused}");
        assert!(refused.contains("1 to 40 characters"), "{refused}");
    }

    #[test]
    fn json_is_parsed_as_strictly_as_text() {
        assert!(serde_json::from_str::<TenantId>("\"Not A Name\"").is_err());
        assert_eq!(
            serde_json::to_string(&TenantId::new("stride-eu").unwrap()).unwrap(),
            "\"stride-eu\""
        );
    }

    #[test]
    fn a_country_must_be_assigned() {
        assert!(CountryCode::new("DE").is_ok());
        for bad in ["de", "EU", "XX", "DEU", "", " D", "D "] {
            assert!(CountryCode::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ISO_3166_1.split(' ').filter(|code| is_country(code)).count(), 249);
        assert!(ISO_3166_1.split(' ').is_sorted(), "it is searched by halves");
    }

    #[test]
    fn a_subdivision_belongs_to_a_country() {
        assert_eq!(SubdivisionCode::new("CA-QC").unwrap().country(), "CA");
        for bad in ["CAQC", "CA-", "ZZ-A", "CA-QUEB", "CA-qc"] {
            assert!(SubdivisionCode::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_a_whole_sha256() {
        assert!(DocumentDigest::new(format!("sha256:{}", "0a".repeat(32))).is_ok());
        for bad in [
            "",
            "sha256:",
            "sha256:00",
            &format!("sha256:{}", "0A".repeat(32)),
            &"0".repeat(71),
        ] {
            assert!(DocumentDigest::new(bad).is_err(), "{bad}");
        }
    }
}
