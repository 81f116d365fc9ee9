//! The region's CAs as Secret `region-ca` holds them, and which step of a rotation comes next. Pure.
//!
//! | the Secret holds | trusted here and by peers | certificates are issued by |
//! |---|---|---|
//! | `tls.*` | it | it |
//! | and `next.*` | both | `tls.*`, the old one |
//! | `tls.*` of the new one, `ca.crt` of two | both | `tls.*`, the new one |
//! | `tls.*` | it | it |
//!
//! From one row to the next is one write, so whoever leads next finds out from the content where to go on. The key of the
//! old CA is gone from the third row on.

use super::{Authority, CertificateError, Data};
use crate::rotation::blocks;
use jiff::Timestamp;
use meridian_policy::RegionName;
use std::collections::BTreeMap;

/// Key of the Secret with the request that the last rotation was begun for.
const REQUEST: &str = "request";

/// What the Secret holds.
pub struct Authorities {
    /// Who issues certificates.
    pub issuing: Authority,
    /// Who will, once everybody trusts it.
    pub next: Option<Authority>,
    /// Whom certificates in use may be from, the oldest first; PEM.
    trusted: Vec<String>,
    request: Option<String>,
}

/// The next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// None.
    Wait,
    /// The CA has expired, so nobody trusts it: a new one takes its place at once.
    Replace,
    /// A new CA, which is to be trusted beside the old one.
    Stage,
    /// Certificates are issued by the new one.
    Promote,
    /// The old one is trusted no more.
    Retire,
}

impl Authorities {
    /// A CA that nothing came before.
    #[must_use]
    pub fn first(issuing: Authority) -> Self {
        Self {
            trusted: blocks(issuing.certificate()),
            issuing,
            next: None,
            request: None,
        }
    }

    /// Reads the Secret.
    ///
    /// # Errors
    /// [`CertificateError::DamagedAuthority`] when it is not whole.
    pub fn read(region: &RegionName, data: &Data) -> Result<Self, CertificateError> {
        let issuing = Authority::read(region, data, "tls")?;
        let staged = ["next.crt", "next.key"].iter().any(|key| data.contains_key(*key));
        let next = staged.then(|| Authority::read(region, data, "next")).transpose()?;
        let text = |key: &str| data.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let trusted = blocks(text("ca.crt").unwrap_or_else(|| issuing.certificate()));
        if !blocks(issuing.certificate())
            .iter()
            .all(|block| trusted.contains(block))
        {
            return Err(CertificateError::DamagedAuthority {
                region: region.to_string(),
                cause: "ca.crt does not hold tls.crt".to_owned(),
            });
        }
        let request = text(REQUEST).map(ToOwned::to_owned);
        Ok(Self {
            issuing,
            next,
            trusted,
            request,
        })
    }

    /// Content of the Secret.
    #[must_use]
    pub fn data(&self) -> Data {
        let mut data = self.issuing.data("tls");
        data.extend(self.next.iter().flat_map(|next| next.data("next")));
        if self.trusted.len() > 1 {
            data.insert("ca.crt".to_owned(), self.trusted.concat().into_bytes());
        }
        if let Some(request) = &self.request {
            data.insert(REQUEST.to_owned(), request.clone().into_bytes());
        }
        data
    }

    /// What everybody has to trust now, here and in other regions, PEM: whoever has issued a certificate in use, and whoever
    /// is about to issue one. It is the same before and after [`Step::Promote`].
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.iter().flat_map(|next| blocks(next.certificate()));
        self.trusted.iter().cloned().chain(next).collect()
    }

    /// Whether a rotation is under way.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.next.is_some() || self.trusted.len() > 1
    }

    /// Whether nobody trusts what is issued.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.issuing.has_expired(now)
    }

    /// The step that is due. `asked`: the request that there is, if any; `stands`: everybody who has to has seen what the
    /// last step did.
    #[must_use]
    pub fn step(&self, asked: Option<&str>, stands: bool, now: Timestamp) -> Step {
        if self.has_expired(now) {
            return Step::Replace;
        }
        let new_request = asked.is_some() && asked != self.request.as_deref();
        match &self.next {
            Some(_) if stands => Step::Promote,
            None if self.is_rotating() && stands => Step::Retire,
            None if !self.is_rotating() && (new_request || self.issuing.is_due(now)) => Step::Stage,
            _ => Step::Wait,
        }
    }

    /// What the Secret holds after a step. `new` makes a CA, for the steps that need one.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn after(
        &self,
        step: Step,
        region: &RegionName,
        asked: Option<&str>,
        new: impl FnOnce() -> Result<Authority, CertificateError>,
    ) -> Result<Data, CertificateError> {
        let first = |issuing| Self {
            request: asked.map(ToOwned::to_owned),
            ..Self::first(issuing)
        };
        let copy = |authority: &Authority| Authority::read(region, &authority.data("tls"), "tls");
        Ok(match (step, &self.next) {
            (Step::Replace, _) => first(new()?).data(),
            (Step::Stage, _) => Self {
                issuing: copy(&self.issuing)?,
                next: Some(new()?),
                trusted: self.trusted.clone(),
                request: asked.map(ToOwned::to_owned),
            }
            .data(),
            (Step::Promote, Some(next)) => Self {
                issuing: copy(next)?,
                next: None,
                trusted: blocks(&self.bundle()),
                request: self.request.clone(),
            }
            .data(),
            (Step::Retire, _) => Self {
                request: self.request.clone(),
                ..Self::first(copy(&self.issuing)?)
            }
            .data(),
            (Step::Wait | Step::Promote, _) => self.data(),
        })
    }
}

/// The peers that do not apply a bundle yet. `told`: the digest of the bundle that each applies, as far as the hub has told.
#[must_use]
pub fn missing<'a>(
    peers: impl IntoIterator<Item = &'a RegionName>,
    told: &BTreeMap<RegionName, String>,
    bundle: &str,
) -> Vec<RegionName> {
    let digest = crate::rotation::digest(bundle);
    let peers = peers.into_iter();
    peers.filter(|peer| told.get(*peer) != Some(&digest)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    fn days(days: i64) -> Timestamp {
        Timestamp::from_second(now().as_second() + days * 86_400).unwrap()
    }

    fn region() -> RegionName {
        "eu".parse().unwrap()
    }

    fn new() -> Result<Authority, CertificateError> {
        Authority::new(&region(), now())
    }

    fn read(data: &Data) -> Authorities {
        let read = Authorities::read(&region(), data).unwrap();
        assert_eq!(read.data(), *data, "nothing is lost on the way");
        read
    }

    #[test]
    fn a_rotation_goes_on_from_what_is_stored_and_who_issues_is_always_trusted() {
        let mut stored = read(&Authorities::first(new().unwrap()).data());
        let old = stored.issuing.certificate().to_owned();
        assert_eq!(stored.step(None, true, days(1)), Step::Wait);
        for (asked, step, trusted) in [
            (Some("1"), Step::Stage, 2),
            (Some("1"), Step::Promote, 2),
            (Some("2"), Step::Retire, 1),
        ] {
            assert_eq!(stored.step(asked, true, days(1)), step);
            if step != Step::Stage {
                assert_eq!(stored.step(asked, false, days(1)), Step::Wait, "it does not stand yet");
            }
            let before = stored.bundle();
            let next = read(&stored.after(step, &region(), asked, new).unwrap());
            assert!(next.bundle().contains(next.issuing.certificate()));
            assert!(
                step == Step::Stage || before.contains(next.issuing.certificate()),
                "trusted before it issues"
            );
            assert!(
                step != Step::Promote || before == next.bundle(),
                "nobody has to be told anew"
            );
            assert_eq!(blocks(&next.bundle()).len(), trusted);
            stored = next;
        }
        assert_ne!(stored.issuing.certificate(), old);
        assert_eq!(stored.step(Some("1"), true, days(1)), Step::Wait, "that was done");
        assert_eq!(
            stored.step(Some("2"), true, days(1)),
            Step::Stage,
            "that was asked meanwhile"
        );
        assert!(!stored.data().values().any(|value| value == old.as_bytes()));
    }

    #[test]
    fn a_ca_is_replaced_after_half_of_its_life_and_one_that_has_expired_at_once() {
        let stored = Authorities::first(new().unwrap());
        assert_eq!(stored.step(None, false, days(1820)), Step::Wait);
        assert_eq!(stored.step(None, false, days(1825)), Step::Stage);
        assert_eq!(stored.step(None, false, days(3650)), Step::Replace);
    }

    #[test]
    fn the_old_key_is_thrown_away_with_the_step_that_no_longer_needs_it() {
        let first = Authorities::first(new().unwrap());
        let key = first.data()["tls.key"].clone();
        let staged = read(&first.after(Step::Stage, &region(), Some("1"), new).unwrap());
        assert!(staged.data().values().any(|value| *value == key));
        let promoted = staged.after(Step::Promote, &region(), Some("1"), new).unwrap();
        assert!(!promoted.values().any(|value| *value == key));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (one, other) = (Authorities::first(new().unwrap()), Authorities::first(new().unwrap()));
        let mut foreign = one.data();
        foreign.insert("ca.crt".to_owned(), other.bundle().into_bytes());
        assert!(Authorities::read(&region(), &foreign).is_err());
        let mut half = one.data();
        half.insert("next.crt".to_owned(), other.bundle().into_bytes());
        assert!(Authorities::read(&region(), &half).is_err());
    }

    #[test]
    fn a_peer_is_missing_until_it_applies_this_very_bundle() {
        let (us, uk): (RegionName, RegionName) = ("us".parse().unwrap(), "uk".parse().unwrap());
        let mut told = BTreeMap::from([(us.clone(), crate::rotation::digest("both"))]);
        assert_eq!(missing([&us, &uk], &told, "both"), std::slice::from_ref(&uk));
        told.insert(uk.clone(), crate::rotation::digest("old"));
        assert_eq!(missing([&us, &uk], &told, "both"), [uk]);
        assert!(missing([], &told, "both").is_empty());
    }
}
