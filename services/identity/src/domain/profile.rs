//! What an athlete says about themselves, and who may see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::InvalidField;

/// Longest first or last name, in characters.
const NAME: usize = 80;
/// Longest bio, in characters.
const BIO: usize = 2_000;
/// Most preferences, and longest key and value.
const PREFERENCES: (usize, usize, usize) = (32, 40, 200);

/// Who may see something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// Every athlete of the organization.
    Everyone,
    /// Athletes who follow this one.
    Followers,
    /// Nobody else. The default: privacy by default is Art 25(2) GDPR.
    #[default]
    OnlyMe,
}

/// Privacy settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// Name, bio.
    pub profile: Audience,
    /// Finished workouts.
    pub workouts: Audience,
}

/// A profile. Stored sealed, always.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Profile {
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Free text.
    #[serde(default)]
    pub bio: String,
    /// Settings of the apps (units, language, …).
    #[serde(default)]
    pub preferences: BTreeMap<String, String>,
    /// Who may see what.
    #[serde(default)]
    pub privacy: Privacy,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Profile(…)")
    }
}

/// A change of some fields; what is absent stays.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ProfileChange {
    /// New given name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// New family name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    /// New free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<String>,
    /// Preferences to set; `null` removes one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preferences: BTreeMap<String, Option<String>>,
    /// New privacy settings, as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
}

impl std::fmt::Debug for ProfileChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProfileChange(…)")
    }
}

impl Profile {
    /// The profile after `change`. Total: a stored change always applies, whatever today's rules are.
    #[must_use]
    pub fn with(mut self, change: &ProfileChange) -> Self {
        if let Some(first_name) = &change.first_name {
            self.first_name.clone_from(first_name);
        }
        if let Some(last_name) = &change.last_name {
            self.last_name.clone_from(last_name);
        }
        if let Some(bio) = &change.bio {
            self.bio.clone_from(bio);
        }
        for (key, value) in &change.preferences {
            match value {
                Some(value) => self.preferences.insert(key.clone(), value.clone()),
                None => self.preferences.remove(key),
            };
        }
        if let Some(privacy) = change.privacy {
            self.privacy = privacy;
        }
        self
    }

    /// Whether a new state of the profile follows the rules.
    pub fn check(&self) -> Result<(), InvalidField> {
        name("first_name", &self.first_name)?;
        name("last_name", &self.last_name)?;
        let newline_or_text = |c: char| c == '\n' || !c.is_control();
        if self.bio.chars().count() > BIO || !self.bio.chars().all(newline_or_text) {
            return Err(InvalidField::new("bio", format!("text of at most {BIO} characters")));
        }
        let (most, longest_key, longest_value) = PREFERENCES;
        let plain_key = |key: &str| {
            !key.is_empty()
                && key.len() <= longest_key
                && key
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        };
        let in_bounds = self.preferences.len() <= most
            && self
                .preferences
                .iter()
                .all(|(key, value)| plain_key(key) && value.chars().count() <= longest_value);
        if !in_bounds {
            return Err(InvalidField::new(
                "preferences",
                format!(
                    "at most {most} entries, keys of a-z 0-9 - _ . up to {longest_key} characters, values up to \
                     {longest_value}"
                ),
            ));
        }
        Ok(())
    }
}

fn name(field: &'static str, text: &str) -> Result<(), InvalidField> {
    let trimmed = text.trim() == text && !text.is_empty();
    if trimmed && text.chars().count() <= NAME && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(InvalidField::new(
        field,
        format!("1 to {NAME} characters without leading or trailing spaces"),
    ))
}

/// A declared year of birth, if the athlete gave one.
pub fn check_birth_year(year: Option<i16>, this_year: i16) -> Result<(), InvalidField> {
    match year {
        Some(year) if !(this_year - 120..=this_year).contains(&year) => Err(InvalidField::new(
            "birth_year",
            format!("a year between {} and {this_year}, or nothing", this_year - 120),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Profile {
        Profile {
            first_name: "Ada".into(),
            last_name: "Lovelace".into(),
            ..Profile::default()
        }
    }

    #[test]
    fn a_new_profile_is_private() {
        assert_eq!(
            ada().privacy,
            Privacy {
                profile: Audience::OnlyMe,
                workouts: Audience::OnlyMe
            }
        );
    }

    #[test]
    fn a_change_touches_only_what_it_names() {
        let before = ada().with(&ProfileChange {
            preferences: BTreeMap::from([
                ("units".into(), Some("metric".into())),
                ("language".into(), Some("en".into())),
            ]),
            ..ProfileChange::default()
        });
        let after = before.clone().with(&ProfileChange {
            bio: Some("rides".into()),
            preferences: BTreeMap::from([("units".into(), None)]),
            ..ProfileChange::default()
        });
        assert_eq!(after.bio, "rides");
        assert_eq!(after.preferences, BTreeMap::from([("language".into(), "en".into())]));
        assert_eq!((after.first_name, after.privacy), (before.first_name, before.privacy));
    }

    #[test]
    fn each_rule_names_its_field() {
        type Spoil = fn(&mut Profile);
        let cases: [(&str, Spoil); 7] = [
            ("first_name", |p| p.first_name.clear()),
            ("first_name", |p| p.first_name = " Ada".into()),
            ("last_name", |p| p.last_name = "x".repeat(81)),
            ("last_name", |p| p.last_name = "a\u{7}b".into()),
            ("bio", |p| p.bio = "x".repeat(2_001)),
            ("preferences", |p| {
                drop(p.preferences.insert("Bad Key".into(), String::new()))
            }),
            ("preferences", |p| {
                p.preferences = (0..33).map(|n| (n.to_string(), String::new())).collect()
            }),
        ];
        for (field, spoil) in cases {
            let mut profile = ada();
            spoil(&mut profile);
            assert_eq!(profile.check().unwrap_err().field, field);
        }
        assert_eq!(ada().check(), Ok(()));
    }

    #[test]
    fn birth_years_are_plausible_or_absent() {
        for good in [None, Some(1990), Some(2026), Some(1906)] {
            assert_eq!(check_birth_year(good, 2026), Ok(()));
        }
        for bad in [Some(2027), Some(1905), Some(-1)] {
            assert!(check_birth_year(bad, 2026).is_err());
        }
    }

    #[test]
    fn an_unknown_field_of_a_change_is_refused() {
        assert!(serde_json::from_str::<ProfileChange>(r#"{"email":"a@b.org"}"#).is_err());
    }
}
