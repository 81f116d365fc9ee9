//! What can be supposed: a small closed form, read strictly.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::WhatIfError;
use crate::bounds;
use crate::names::{JurisdictionName, PartyName};
use crate::vocabulary::{DataClass, Mechanism};

/// The most bytes that are read.
pub const MAX_BYTES: usize = 16 * 1024;

/// The most hypotheses at once.
pub const MAX_HYPOTHESES: usize = 16;

/// What is supposed, all of it together.
///
/// ```
/// let asked = meridian_policy::WhatIf::parse("
/// hypotheses:
///   - mechanismAnnulled: {from: eu, to: us, mechanism: Adequacy}
///   - asOf: {moment: 2027-01-01T00:00:00Z}
/// ").unwrap();
/// assert_eq!(asked.hypotheses.len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WhatIf {
    /// 1 to 16, applied in order.
    #[schemars(length(min = 1, max = 16))]
    pub hypotheses: Vec<Hypothesis>,
}

/// One thing that is supposed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Hypothesis {
    /// A mechanism towards a jurisdiction is annulled, for example an adequacy decision by a court.
    MechanismAnnulled {
        /// Whose law offered it. None: every jurisdiction that does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<JurisdictionName>,
        /// Where it let data go.
        to: JurisdictionName,
        /// Which kind. None: all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mechanism: Option<Mechanism>,
        /// By name. None: all of that kind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 120))]
        instrument: Option<String>,
    },
    /// A party loses what it was certified under.
    CertificationLost {
        /// Who.
        party: PartyName,
        /// By name. None: all that it holds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 120))]
        instrument: Option<String>,
    },
    /// An instrument (decision, clauses, contract, scheme) ends on a date, and with it all that cites it.
    InstrumentExpires {
        /// By name.
        #[schemars(length(min = 1, max = 120))]
        instrument: String,
        /// When.
        #[schemars(schema_with = "bounds::timestamp")]
        on: Timestamp,
    },
    /// A jurisdiction offers a mechanism that it did not.
    MechanismOffered {
        /// Whose law.
        from: JurisdictionName,
        /// Where data may go.
        to: JurisdictionName,
        /// Which kind.
        mechanism: Mechanism,
        /// By name.
        #[schemars(length(min = 1, max = 120))]
        instrument: String,
        /// The classes that may go.
        #[schemars(length(min = 1, max = 18))]
        classes: Vec<DataClass>,
        /// In force from. None: at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "bounds::optional_timestamp")]
        effective_from: Option<Timestamp>,
        /// In force until. None: without end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "bounds::optional_timestamp")]
        expires: Option<Timestamp>,
    },
    /// Time passes, and nobody prolongs anything.
    AsOf {
        /// Until this moment.
        #[schemars(schema_with = "bounds::timestamp")]
        moment: Timestamp,
    },
}

impl Hypothesis {
    /// The word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::MechanismAnnulled { .. } => "mechanismAnnulled",
            Self::CertificationLost { .. } => "certificationLost",
            Self::InstrumentExpires { .. } => "instrumentExpires",
            Self::MechanismOffered { .. } => "mechanismOffered",
            Self::AsOf { .. } => "asOf",
        }
    }

    const fn instrument(&self) -> Option<&String> {
        match self {
            Self::MechanismAnnulled { instrument, .. } | Self::CertificationLost { instrument, .. } => {
                instrument.as_ref()
            }
            Self::InstrumentExpires { instrument, .. } | Self::MechanismOffered { instrument, .. } => Some(instrument),
            Self::AsOf { .. } => None,
        }
    }
}

impl WhatIf {
    /// Reads hypotheses from YAML or JSON.
    ///
    /// # Errors
    /// [`WhatIfError`] names the field and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, WhatIfError> {
        if text.len() > MAX_BYTES {
            return Err(WhatIfError::TooLong { bytes: text.len() });
        }
        let malformed = |field: String, problem: String| WhatIfError::Malformed { field, problem };
        // Through YAML's own tree, since it refuses a key that is there twice.
        let tree: serde_yaml::Value =
            serde_yaml::from_str(text).map_err(|error| malformed("the text".to_owned(), error.to_string()))?;
        let json = serde_json::to_value(tree).map_err(|error| malformed("the text".to_owned(), error.to_string()))?;
        let asked: Self = serde_path_to_error::deserialize(json).map_err(|error| {
            let field = match error.path().to_string() {
                path if path == "." => "the text".to_owned(),
                path => path,
            };
            malformed(field, error.into_inner().to_string())
        })?;
        asked.bounded()?;
        Ok(asked)
    }

    /// Whether every list and text is within its bounds.
    pub(super) fn bounded(&self) -> Result<(), WhatIfError> {
        let count = self.hypotheses.len();
        if count == 0 || count > MAX_HYPOTHESES {
            return Err(WhatIfError::Count { count });
        }
        for (number, hypothesis) in self.hypotheses.iter().enumerate() {
            let at = |field: &str| format!("hypotheses[{number}].{}.{field}", hypothesis.word());
            let length = hypothesis.instrument().map(|text| text.chars().count());
            if length.is_some_and(|length| length == 0 || length > 120) {
                let field = at("instrument");
                let problem = "an instrument's name has 1 to 120 characters".to_owned();
                return Err(WhatIfError::Malformed { field, problem });
            }
            if let Hypothesis::MechanismOffered { classes, .. } = hypothesis
                && (classes.is_empty() || classes.len() > DataClass::ALL.len())
            {
                let field = at("classes");
                let problem = format!("1 to {} classes are listed", DataClass::ALL.len());
                return Err(WhatIfError::Malformed { field, problem });
            }
        }
        let moments = self
            .hypotheses
            .iter()
            .filter(|one| matches!(one, Hypothesis::AsOf { .. }));
        if moments.count() > 1 {
            return Err(WhatIfError::TwoMoments);
        }
        Ok(())
    }
}
