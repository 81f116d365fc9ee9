//! The closed vocabularies of the law and of the product. A word that is not in its list does not parse.

macro_rules! closed_vocabulary {
    (
        $(#[$doc:meta])*
        $name:ident, $what:literal;
        $( $(#[$variant_doc:meta])* $variant:ident = $text:literal ),+ $(,)?
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[$variant_doc])* $variant ),+
        }

        impl $name {
            /// Every word of the vocabulary, in order.
            pub const ALL: &[Self] = &[ $( Self::$variant ),+ ];

            /// The word as it is written in YAML, JSON and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text ),+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::names::InvalidName;
            fn from_str(text: &str) -> Result<Self, $crate::names::InvalidName> {
                match text {
                    $( $text => Ok(Self::$variant), )+
                    _ => Err($crate::names::InvalidName::new($what, text, concat!("one of", $( " ", $text ),+))),
                }
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <::std::borrow::Cow<'de, str> as ::serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(::serde::de::Error::custom)
            }
        }

        impl ::schemars::JsonSchema for $name {
            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                ::schemars::json_schema!({ "type": "string", "maxLength": 40, "enum": [ $( $text ),+ ] })
            }
        }
    };
}
pub(crate) use closed_vocabulary;

closed_vocabulary! {
    /// What kind of data a field holds. Every column, event field, header, log field and label has one.
    DataClass, "data class";
    /// Name, subject identifier, profile text.
    Identity = "identity",
    /// E-mail address, telephone number, postal address.
    Contact = "contact",
    /// Password hashes, tokens, recovery codes.
    Credentials = "credentials",
    /// Identifiers of devices.
    DeviceId = "device-id",
    /// Birth year or age.
    Age = "age",
    /// Heart rate and what else says how a body does.
    Health = "health",
    /// Coordinates and what they are derived to.
    Location = "location",
    /// What a workout came to: sport, distance, duration.
    WorkoutSummary = "workout-summary",
    /// Plans, tags, titles and notes of workouts.
    TrainingContent = "training-content",
    /// Who follows whom, membership in groups.
    SocialGraph = "social-graph",
    /// Comments and chat.
    Messages = "messages",
    /// Photos and video.
    Media = "media",
    /// What a model concludes about a person.
    Inference = "inference",
    /// Consents, their versions and receipts.
    Consent = "consent",
    /// Campaigns, deliveries, codes.
    Promotion = "promotion",
    /// Purchases and means of payment.
    Payment = "payment",
    /// Who accessed what, sign-in attempts.
    SecurityLog = "security-log",
    /// Counts, opaque ids, versions: nothing about a person.
    Operational = "operational",
}

closed_vocabulary! {
    /// How carefully the law wants a class handled.
    Sensitivity, "sensitivity";
    /// Personal data.
    Ordinary = "Ordinary",
    /// A special category: processing needs an Art 9 condition beside its lawful basis.
    Special = "Special",
}

closed_vocabulary! {
    /// What data is used for.
    Purpose, "purpose";
    /// To do what the athlete signed up for.
    ServiceProvision = "service-provision",
    /// To show what an athlete shares to people in other regions.
    CrossBorderSharing = "cross-border-sharing",
    /// To advertise.
    Marketing = "marketing",
    /// To infer interests or traits.
    Profiling = "profiling",
    /// To count and compare.
    Analytics = "analytics",
    /// To do what a law demands.
    LegalObligation = "legal-obligation",
}

closed_vocabulary! {
    /// What makes a transfer to another jurisdiction lawful (GDPR chapter V and its relatives). It is neither a
    /// lawful basis (Art 6) nor a condition for special categories (Art 9): all of them must hold.
    Mechanism, "transfer mechanism";
    /// A decision that the other jurisdiction protects data adequately (Art 45).
    Adequacy = "Adequacy",
    /// Standard contractual clauses (Art 46(2)(c)).
    Scc = "SCC",
    /// The United Kingdom's International Data Transfer Agreement, or its Addendum to the SCC.
    Idta = "IDTA",
    /// Binding corporate rules (Art 47).
    Bcr = "BCR",
    /// A certification that the importing entity holds, such as under the EU-US Data Privacy Framework.
    Certification = "Certification",
    /// The exporter's law does not restrict this transfer.
    NotRestricted = "NotRestricted",
    /// A derogation for a specific situation (Art 49). Never carries systematic replication.
    Art49Derogation = "Art49Derogation",
}

impl Mechanism {
    /// True where the exporter must have assessed the law and practice of the importer's country.
    #[must_use]
    pub const fn needs_assessment(self) -> bool {
        matches!(self, Self::Scc | Self::Idta | Self::Bcr)
    }

    /// True where the mechanism holds for an entity, not for a country.
    #[must_use]
    pub const fn binds_the_importer(self) -> bool {
        matches!(self, Self::Certification | Self::Bcr)
    }

    /// The article that the mechanism rests on, where `framework` has one.
    #[must_use]
    pub const fn article(self, framework: LegalFramework) -> Option<&'static str> {
        match (framework, self) {
            (LegalFramework::Gdpr, Self::Adequacy) => Some("GDPR Art 45"),
            (LegalFramework::Gdpr, Self::Scc) => Some("GDPR Art 46(2)(c)"),
            (LegalFramework::Gdpr, Self::Bcr) => Some("GDPR Art 47"),
            (LegalFramework::Gdpr, Self::Art49Derogation) => Some("GDPR Art 49"),
            // A certification may rest on Art 45 (the Data Privacy Framework) or on Art 46(2)(f): the instrument says which.
            _ => None,
        }
    }
}

closed_vocabulary! {
    /// The conditions of GDPR Art 9(2), in the order of its letters.
    Art9Condition, "Art 9 condition";
    /// (a) The data subject consented explicitly, to this purpose.
    ExplicitConsent = "ExplicitConsent",
    /// (b) Employment and social security law.
    EmploymentAndSocialSecurity = "EmploymentAndSocialSecurity",
    /// (c) Vital interests of someone who cannot consent.
    VitalInterests = "VitalInterests",
    /// (d) A foundation or association about its members.
    NonProfitMembers = "NonProfitMembers",
    /// (e) The data subject made it manifestly public.
    ManifestlyPublic = "ManifestlyPublic",
    /// (f) Legal claims.
    LegalClaims = "LegalClaims",
    /// (g) Substantial public interest.
    SubstantialPublicInterest = "SubstantialPublicInterest",
    /// (h) Medicine and care.
    HealthCare = "HealthCare",
    /// (i) Public health.
    PublicHealth = "PublicHealth",
    /// (j) Archives, research, statistics.
    ArchivingAndResearch = "ArchivingAndResearch",
}

closed_vocabulary! {
    /// What a legal entity is to the data.
    PartyRole, "party role";
    /// Decides why and how.
    Controller = "Controller",
    /// Decides together with another.
    JointController = "JointController",
    /// Acts for a controller.
    Processor = "Processor",
    /// Acts for a processor.
    SubProcessor = "SubProcessor",
}

closed_vocabulary! {
    /// The body of law whose articles a refusal can cite.
    LegalFramework, "legal framework";
    /// Regulation (EU) 2016/679.
    Gdpr = "GDPR",
    /// The same as kept and amended in the law of the United Kingdom.
    UkGdpr = "UKGDPR",
    /// Any other: refusals cite no article.
    Other = "Other",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_parses_back() {
        for class in DataClass::ALL {
            assert_eq!(class.as_str().parse::<DataClass>().unwrap(), *class);
            assert_eq!(
                serde_json::from_value::<DataClass>(serde_json::to_value(class).unwrap()).unwrap(),
                *class
            );
        }
        assert_eq!(serde_yaml::from_str::<Mechanism>("SCC").unwrap(), Mechanism::Scc);
    }

    #[test]
    fn an_unknown_word_names_the_known_ones() {
        let refused = "moods".parse::<DataClass>().unwrap_err().to_string();
        assert!(
            refused.contains("'moods' is not a valid data class: one of identity contact"),
            "{refused}"
        );
    }
}
