//! What a campaign is: a name, a text, and whom it is for.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest title and body, in characters.
const TITLE: usize = 120;
const BODY: usize = 4_000;

/// Which athletes a campaign is for, among those who consented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// All of them.
    All,
    /// Those who do this sport.
    Sport(Sport),
}

/// A kind of sport as training names it: `cycling`, `trail-running`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Sport(String);

/// A text that is no kind of sport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sport type is 1 to 40 characters a-z, 0-9, '-' and '_'")]
pub struct InvalidSport;

impl Sport {
    /// Parses the text.
    ///
    /// # Errors
    /// When it breaks the rule.
    pub fn parse(text: &str) -> Result<Self, InvalidSport> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        if (1..=40).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidSport)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sport {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Segment {
    /// The sport, as it is stored.
    #[must_use]
    pub fn sport(&self) -> Option<&Sport> {
        match self {
            Self::All => None,
            Self::Sport(sport) => Some(sport),
        }
    }
}

impl From<Option<Sport>> for Segment {
    fn from(sport: Option<Sport>) -> Self {
        sport.map_or(Self::All, Self::Sport)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sport_type: Option<Sport>,
}

impl Serialize for Segment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sport_type = self.sport().cloned();
        Wire {
            all: sport_type.is_none().then_some(true),
            sport_type,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Segment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Whom a campaign reaches is never a default: an empty segment is a mistake, not "all".
        match Wire::deserialize(deserializer)? {
            Wire {
                all: Some(true),
                sport_type: None,
            } => Ok(Self::All),
            Wire {
                all: None | Some(false),
                sport_type: Some(sport),
            } => Ok(Self::Sport(sport)),
            _ => Err(D::Error::custom(
                "a segment is {\"all\": true} or {\"sport_type\": \"<sport>\"}",
            )),
        }
    }
}

/// A campaign to be made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCampaign {
    /// Its name in the tenant's tools; unique in the tenant.
    pub name: String,
    /// What the athlete reads first.
    pub title: String,
    /// What the athlete reads then.
    pub body: String,
    /// For whom.
    pub segment: Segment,
}

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct InvalidField {
    /// Its name.
    pub field: &'static str,
    /// What is allowed.
    pub rule: String,
}

impl NewCampaign {
    /// Whether it follows the rules.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), InvalidField> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            let rule = "1 to 64 characters a-z, 0-9, '-', '_' and '.'".to_owned();
            return Err(InvalidField { field: "name", rule });
        }
        text("title", &self.title, TITLE)?;
        text("body", &self.body, BODY)
    }
}

fn text(field: &'static str, value: &str, longest: usize) -> Result<(), InvalidField> {
    let shown = |c: char| c == '\n' || !c.is_control();
    if !value.trim().is_empty() && value.chars().count() <= longest && value.chars().all(shown) {
        return Ok(());
    }
    Err(InvalidField {
        field,
        rule: format!("text of 1 to {longest} characters"),
    })
}

/// Where a campaign is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nobody has received it.
    Draft,
    /// Athletes are being looked through.
    Launching,
    /// Everybody who had consented was looked at; who consents later receives it, too.
    Launched,
}

impl Phase {
    /// Reads the word in the database.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "draft" => Some(Self::Draft),
            "launching" => Some(Self::Launching),
            "launched" => Some(Self::Launched),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign() -> NewCampaign {
        NewCampaign {
            name: "spring-2026".into(),
            title: "Spring".into(),
            body: "New shoes".into(),
            segment: Segment::All,
        }
    }

    #[test]
    fn a_segment_says_whom_and_is_never_a_default() {
        let parse = |text: &str| serde_json::from_str::<Segment>(text);
        assert_eq!(parse(r#"{"all":true}"#).unwrap(), Segment::All);
        let cycling = Segment::Sport(Sport::parse("cycling").unwrap());
        assert_eq!(parse(r#"{"sport_type":"cycling"}"#).unwrap(), cycling);
        for bad in [
            "{}",
            r#"{"all":false}"#,
            r#"{"all":true,"sport_type":"cycling"}"#,
            r#"{"sport_type":"Cycling!"}"#,
            r#"{"age":"18"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for segment in [Segment::All, cycling] {
            let text = serde_json::to_string(&segment).unwrap();
            assert_eq!(parse(&text).unwrap(), segment);
        }
    }

    #[test]
    fn each_rule_names_its_field() {
        assert_eq!(campaign().check(), Ok(()));
        type Spoil = fn(&mut NewCampaign);
        let cases: [(&str, Spoil); 5] = [
            ("name", |c| c.name = "Spring 2026".into()),
            ("name", |c| c.name.clear()),
            ("title", |c| c.title = " ".into()),
            ("title", |c| c.title = "x".repeat(121)),
            ("body", |c| c.body = "a\u{7}".into()),
        ];
        for (field, spoil) in cases {
            let mut campaign = campaign();
            spoil(&mut campaign);
            assert_eq!(campaign.check().unwrap_err().field, field);
        }
    }
}
