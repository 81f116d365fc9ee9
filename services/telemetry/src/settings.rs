//! What the IngestPool sets: partitions and quotas.

use meridian_kit::StartError;

use crate::domain::quota::Quota;

/// Seconds of silence that a quota saves up: a device that was out of reach sends what it recorded meanwhile.
const BURST_SECONDS: f64 = 600.0;

/// What the IngestPool sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `MERIDIAN_INGEST_PARTITIONS`: of the topic; the most writers that can share the work. Default 6.
    pub partitions: i32,
    /// `MERIDIAN_INGEST_SUBJECT_SAMPLES_PER_SECOND`: of one athlete, per API process. Default 50.
    pub subject: Quota,
    /// `MERIDIAN_INGEST_TENANT_SAMPLES_PER_SECOND`: of one tenant, per API process. Default: no limit.
    pub tenant: Option<Quota>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            partitions: 6,
            subject: quota(50.0),
            tenant: None,
        }
    }
}

fn quota(per_second: f64) -> Quota {
    Quota {
        per_second,
        burst: per_second * BURST_SECONDS,
    }
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// A variable that is not what it must be.
    pub fn from_env() -> Result<Self, StartError> {
        Self::parse(|variable| std::env::var(variable).ok())
    }

    fn parse(value: impl Fn(&'static str) -> Option<String>) -> Result<Self, StartError> {
        let number = |variable: &'static str, range: std::ops::RangeInclusive<u32>| {
            let Some(text) = value(variable).filter(|text| !text.trim().is_empty()) else {
                return Ok(None);
            };
            let number = text.trim().parse().ok().filter(|number| range.contains(number));
            let problem = || format!("must be a whole number from {} to {}", range.start(), range.end());
            number.map(Some).ok_or_else(|| StartError::File {
                variable,
                problem: problem(),
            })
        };
        let rate =
            |variable| Ok::<_, StartError>(number(variable, 1..=100_000_000)?.map(|rate| quota(f64::from(rate))));
        let default = Self::default();
        let partitions = number("MERIDIAN_INGEST_PARTITIONS", 1..=1000)?;
        Ok(Self {
            partitions: partitions
                .and_then(|count| i32::try_from(count).ok())
                .unwrap_or(default.partitions),
            subject: rate("MERIDIAN_INGEST_SUBJECT_SAMPLES_PER_SECOND")?.unwrap_or(default.subject),
            tenant: rate("MERIDIAN_INGEST_TENANT_SAMPLES_PER_SECOND")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_has_a_default() {
        assert_eq!(Settings::parse(|_| None).expect("defaults"), Settings::default());
    }

    #[test]
    fn a_wrong_value_is_refused_by_its_name() {
        for variable in [
            "MERIDIAN_INGEST_PARTITIONS",
            "MERIDIAN_INGEST_SUBJECT_SAMPLES_PER_SECOND",
            "MERIDIAN_INGEST_TENANT_SAMPLES_PER_SECOND",
        ] {
            for wrong in ["0", "-1", "many", "1.5"] {
                let error =
                    Settings::parse(|name| (name == variable).then(|| wrong.to_owned())).expect_err("must be refused");
                assert!(error.to_string().contains(variable), "{error}");
            }
        }
    }
}
