//! What became of deliveries, in one transaction with the evidence of it: those that ended are forgotten, the others wait.

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::db::{Scope, TenantTx};
use meridian_kit::evidence::{self, Entry, Kind, commit_to, entry_of};
use meridian_kit::subject_keys::{KeyRequest, KeyScope, SubjectKey};
use meridian_policy::{CompiledEdge, EdgeId, PolicyRevision};
use uuid::Uuid;

use super::Exporter;
use crate::domain::delivery::{Refused, Waiting};
use crate::domain::evidence::{NOT_TAKEN, along};
use crate::store::StoreError;
use crate::store::exports::{self, Delivery};

/// What an attempt came to for one delivery.
pub(super) enum Outcome {
    Sent,
    Wait(Waiting),
    Refuse(Refused),
}

/// What left the region in one push, taken or not.
pub(super) struct Crossing {
    /// When it began.
    pub(super) at: Timestamp,
    /// As the socket counted.
    pub(super) bytes: u64,
    /// SHA-256 of the batch.
    pub(super) digest: [u8; 32],
    /// Whom it was about.
    pub(super) subjects: BTreeSet<SubjectId>,
}

impl Exporter {
    pub(super) async fn record(
        &self,
        scope: &Scope,
        (id, edge, revision): (&EdgeId, Option<&CompiledEdge>, PolicyRevision),
        outcomes: &[(Delivery, Outcome)],
        crossing: Option<&Crossing>,
    ) -> Result<(), StoreError> {
        let keys = self.keys_of_those_concerned(outcomes, crossing).await;
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let mut sent = Vec::new();
        let mut waiting = Vec::new();
        let mut refused: Vec<(String, Vec<&Delivery>)> = Vec::new();
        for (delivery, outcome) in outcomes {
            match outcome {
                Outcome::Sent => sent.push(delivery.copy_id),
                Outcome::Wait(why) => {
                    waiting.push((delivery, *why));
                    self.shared.meters.waited(id, *why);
                }
                Outcome::Refuse(why) => {
                    let rule = why.rule();
                    match refused.iter_mut().find(|(known, _)| *known == rule) {
                        Some((_, deliveries)) => deliveries.push(delivery),
                        None => refused.push((rule, vec![delivery])),
                    }
                }
            }
        }
        if !waiting.is_empty() {
            exports::postpone(&mut tx, &waiting).await?;
        }
        // Also what was not taken has left: its bytes count.
        if let Some(crossing) = crossing.filter(|crossing| crossing.bytes > 0 || !sent.is_empty()) {
            let ended = exports::end(&mut tx, &sent).await?;
            let mut entry = along(entry_of(&tx, Kind::Transfer), id, edge, revision);
            if sent.is_empty() {
                entry.rule = Some(NOT_TAKEN.to_owned());
            }
            entry.at = crossing.at;
            entry.count = Some(ended);
            (entry.bytes, entry.digest) = (Some(crossing.bytes), Some(crossing.digest));
            commit_to(&mut entry, of(&keys, &crossing.subjects))?;
            evidence::append(&mut tx, &entry).await?;
            self.shared.meters.delivered(id, ended);
        }
        for (rule, deliveries) in refused {
            let copies: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.copy_id).collect();
            let ended = exports::end(&mut tx, &copies).await?;
            if ended == 0 {
                continue;
            }
            let entry = along(entry_of(&tx, Kind::Refusal), id, edge, revision);
            let mut entry = Entry {
                rule: Some(rule.clone()),
                count: Some(ended),
                bytes: Some(0),
                ..entry
            };
            let subjects = deliveries.iter().map(|delivery| delivery.event.data_subject).collect();
            commit_to(&mut entry, of(&keys, &subjects))?;
            evidence::append(&mut tx, &entry).await?;
            self.shared.meters.refused(id, &rule, ended);
        }
        tx.commit().await?;
        Ok(())
    }

    /// The keys of the subjects that evidence is about to concern: those that were used just now, mostly, and one question
    /// for all others. Whoever has none (erased, or the keyring is away) is counted and not committed to.
    async fn keys_of_those_concerned(
        &self,
        outcomes: &[(Delivery, Outcome)],
        crossing: Option<&Crossing>,
    ) -> Vec<SubjectKey> {
        let crossed = crossing.into_iter().flat_map(|crossing| &crossing.subjects).copied();
        let ended = outcomes
            .iter()
            .filter(|(_, outcome)| !matches!(outcome, Outcome::Wait(_)))
            .map(|(delivery, _)| delivery.event.data_subject);
        let subjects: BTreeSet<SubjectId> = crossed.chain(ended).collect();
        let Some((delivery, _)) = outcomes.first().filter(|_| !subjects.is_empty()) else {
            return Vec::new();
        };
        let request = |subject| KeyRequest {
            tenant: delivery.event.tenant.clone(),
            subject,
            scope: KeyScope::Personal,
            create: false,
        };
        match self
            .shared
            .keyring
            .keys(subjects.into_iter().map(request).collect())
            .await
        {
            Ok(keys) => keys.into_iter().flatten().collect(),
            Err(error) => {
                tracing::warn!(%error, "evidence is recorded without commitments to the subjects: their keys are not to be had");
                Vec::new()
            }
        }
    }
}

fn of<'a>(keys: &'a [SubjectKey], subjects: &BTreeSet<SubjectId>) -> Vec<&'a SubjectKey> {
    keys.iter().filter(|key| subjects.contains(&key.subject())).collect()
}
