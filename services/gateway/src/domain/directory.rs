//! The public directory of regions: for those who have neither a token nor a tenant, by the country they declare.

use meridian_policy::{CountryCode, RegionPolicy};
use serde::Serialize;

/// The answer of `GET /api/v1/regions`.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub struct Directory<'a> {
    /// The regions, those that serve the country that was asked about; all of them when none was.
    pub regions: Vec<Region<'a>>,
}

/// A region as the public sees it.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub struct Region<'a> {
    /// Its name.
    pub region: &'a str,
    /// Where athletes reach it.
    pub url: &'a str,
    /// The countries whose residents it serves.
    pub countries: &'a [CountryCode],
}

/// The regions that serve `country`.
#[must_use]
pub fn directory<'a>(policy: &'a RegionPolicy, country: Option<&CountryCode>) -> Directory<'a> {
    let serves = |countries: &[CountryCode]| country.is_none_or(|country| countries.contains(country));
    let regions = policy
        .directory
        .iter()
        .filter(|entry| serves(&entry.countries))
        .map(|entry| Region {
            region: entry.region.as_str(),
            url: &entry.public_url,
            countries: &entry.countries,
        })
        .collect();
    Directory { regions }
}

/// The country that a query string asks about.
///
/// # Errors
/// When it is not a country code, or a parameter is unknown.
pub fn country_of(query: Option<&str>) -> Result<Option<CountryCode>, BadQuery> {
    let mut country = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("country", code)) => country = Some(code.parse().map_err(|_| BadQuery::NotACountry)?),
            _ => return Err(BadQuery::UnknownParameter),
        }
    }
    Ok(country)
}

/// A query that the directory does not take.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadQuery {
    /// `country` is not an ISO 3166-1 alpha-2 code.
    #[error("country must be a code of two letters from ISO 3166-1, like DE")]
    NotACountry,
    /// Anything but `country`.
    #[error("the only parameter is country, like ?country=DE")]
    UnknownParameter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_is_two_letters() {
        assert_eq!(country_of(None), Ok(None));
        assert_eq!(country_of(Some("country=DE")), Ok(Some("DE".parse().unwrap())));
        assert_eq!(country_of(Some("country=Germany")), Err(BadQuery::NotACountry));
        assert_eq!(country_of(Some("town=Ulm")), Err(BadQuery::UnknownParameter));
    }
}
