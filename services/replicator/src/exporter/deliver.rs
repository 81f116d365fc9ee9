//! One delivery: lawful now? consent now? redact, seal, push, record. Whatever cannot be answered waits.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::client::ClientError;
use meridian_kit::counted::Sent;
use meridian_kit::db::{Scope, TenantTx};
use meridian_kit::event::{Carried, CarriedDraft};
use meridian_kit::subject_keys::{self, Bulk, KeyRequest, KeyScope, SubjectKey};
use meridian_policy::{CompiledEdge, EdgeId, PolicyRevision, RegionName, Rule};

use super::consent::{Answer, Asked};
use super::only::Only;
use super::record::{Crossing, Outcome};
use super::{Exporter, class_of};
use crate::domain::delivery::{PURPOSE, PermitWindow, Refused, Verdict, Waiting, judge};
use crate::domain::outgoing::{Leaving, OpenedEvent, Outgoing, Withheld, prepare};
use crate::domain::pseudonym::EdgeKey;
use crate::domain::reception::Push;
use crate::keys::NOBODY;
use crate::store::StoreError;
use crate::store::exports::{self, Delivery};
use crate::wire::{Form, Stored, digest};

/// How often the queue is looked at without being woken.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long what was just queued waits for more to go with it: a push costs much the same for one delivery and for a hundred.
const GATHER: Duration = Duration::from_millis(25);
/// How long taken deliveries are another exporter's to leave alone; longer than an attempt can last.
const HOLD: Duration = Duration::from_secs(30);
/// A permit with less left than this is not worth a push.
const SHORTEST_PUSH: Duration = Duration::from_millis(100);
/// How long a push lasts at most, whatever the permits say.
const LONGEST_PUSH: Duration = Duration::from_secs(5);

/// A delivery that may go, with what it goes as.
struct Ready {
    copy: Carried,
    window: PermitWindow,
}

/// What all copies along an edge are made with.
struct Maker<'a> {
    edge: &'a CompiledEdge,
    key: EdgeKey,
    /// Every copy's, whoever its author is.
    import_key: SubjectKey,
    leaving: BTreeMap<String, Leaving<'a>>,
    now: Timestamp,
}

/// What leaves along an edge of the events of these deliveries, by their types: looked up once for all events of a type.
fn leaving<'a>(edge: &'a CompiledEdge, deliveries: &[Delivery]) -> BTreeMap<String, Leaving<'a>> {
    let mut leaving = BTreeMap::new();
    for Delivery { event, .. } in deliveries {
        if !leaving.contains_key(&event.kind) {
            leaving.insert(event.kind.clone(), Leaving::along(edge, &event.kind, class_of));
        }
    }
    leaving
}

impl Exporter {
    /// Delivers what is due until the process stops.
    ///
    /// # Errors
    /// Never.
    pub async fn deliver(self) -> Result<(), Infallible> {
        let stop = self.shared.start.stop();
        let mut policy = self.shared.feed.subscribe();
        let mut changed = false;
        loop {
            changed |= policy.has_changed().unwrap_or(false);
            policy.mark_unchanged();
            self.shared.at_hand.tidy(Instant::now());
            let (mut more, mut failed) = (false, false);
            for scope in self.shared.homes.scopes() {
                match self.deliver_due(&scope, changed).await {
                    Ok(full) => more |= full,
                    Err(error) => {
                        failed = true;
                        tracing::warn!(tenant = %scope.tenant(), %error, "deliveries could not be taken or recorded; they wait");
                    }
                }
            }
            changed &= failed;
            if more && !stop.is_cancelled() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.shared.wake.notified() => {
                    let _ = stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
                }
                _ = policy.changed() => changed = true,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// One round over the edges that have something due. True: an edge had more than one batch, and of that one some came to
    /// an end. After a change of the policy
    /// everything that waits is due: another policy may have another answer for it, or another address.
    async fn deliver_due(&self, scope: &Scope, changed: bool) -> Result<bool, StoreError> {
        let mut more = false;
        let current = self.shared.feed.lease_valid();
        if changed {
            let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
            exports::resume(&mut tx).await?;
            tx.commit().await?;
        }
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let due = exports::edges_due(&mut tx, current).await?;
        if due.is_empty() {
            tx.commit().await?;
            return Ok(false);
        }
        // Mostly it is one edge, and its deliveries are taken at once.
        let mut first = Some(tx);
        for edge in due {
            // As many as the importer takes: what a push costs besides is shared by them.
            let most = self.shared.peers.most(&edge);
            let mut tx = match first.take() {
                Some(tx) => tx,
                None => TenantTx::begin(&self.shared.pool, scope).await?,
            };
            let claimed = exports::claim(&mut tx, &edge, current, most, HOLD).await?;
            let deliveries = exports::with_events(&mut tx, claimed, |copy| self.shared.at_hand.take(copy)).await?;
            tx.commit().await?;
            let full = deliveries.len() == most;
            more |= self.attempt(scope, &edge, deliveries).await? && full;
        }
        Ok(more)
    }

    /// True: some of them came to an end.
    async fn attempt(&self, scope: &Scope, id: &EdgeId, deliveries: Vec<Delivery>) -> Result<bool, StoreError> {
        let claimed = deliveries.len();
        let policy = self.shared.feed.current();
        let edge = policy.export(id);
        let now = Timestamp::now();
        let mut outcomes: Vec<(Delivery, Outcome)> = Vec::with_capacity(deliveries.len());
        let mut going = Vec::with_capacity(deliveries.len());
        let (held, leased) = (policy.holds(id), self.shared.feed.lease_valid());
        for delivery in deliveries {
            match judge(edge, leased, delivery.queued_at, now) {
                Verdict::Refuse(Refused::Policy(_)) if held => {
                    outcomes.push((delivery, Outcome::Wait(Waiting::NotUnderstood)));
                }
                Verdict::Go => going.push(delivery),
                Verdict::Wait(waiting) => outcomes.push((delivery, Outcome::Wait(waiting))),
                Verdict::Refuse(refused) => outcomes.push((delivery, Outcome::Refuse(refused))),
            }
        }
        let mut crossing = None;
        // `judge` lets nothing go without an edge.
        if let (Some(edge), false) = (edge, going.is_empty()) {
            let (went, crossed) = self.attempt_lawful(edge, policy.revision, going, claimed, now).await;
            outcomes.extend(went);
            crossing = crossed;
        }
        let about = (id, edge, policy.revision);
        self.record(scope, about, &outcomes, crossing.as_ref()).await?;
        Ok(outcomes.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Wait(_))))
    }

    /// Deliveries that the policy lets go: consent, redaction, push.
    async fn attempt_lawful(
        &self,
        edge: &CompiledEdge,
        revision: PolicyRevision,
        deliveries: Vec<Delivery>,
        claimed: usize,
        now: Timestamp,
    ) -> (Vec<(Delivery, Outcome)>, Option<Crossing>) {
        let key = match self.shared.edge_keys.of_export(&edge.tenant, &edge.id).await {
            Ok(key) if self.is_open(&edge.tenant, &edge.id).await => key,
            Ok(_) => return (all_wait(deliveries, Waiting::NotInForce), None),
            Err(error) => {
                tracing::warn!(edge = %edge.id, %error, "the key of an edge is not to be had");
                return (all_wait(deliveries, Waiting::KeyringUnreachable), None);
            }
        };
        let import = KeyScope::Import(edge.id.clone());
        let maker = Maker {
            edge,
            import_key: SubjectKey::from_bytes(edge.importer_tenant.clone(), NOBODY, import, key.import_key()),
            key,
            leaving: leaving(edge, &deliveries),
            now,
        };
        let keys = match self.shared.keyring.keys(deliveries.iter().map(key_of).collect()).await {
            Ok(keys) => keys,
            Err(error) => {
                tracing::warn!(edge = %edge.id, %error, "the keys of those whom deliveries are about are not to be had");
                return (all_wait(deliveries, Waiting::KeyringUnreachable), None);
            }
        };
        let mut outcomes = Vec::with_capacity(deliveries.len());
        let mut made = Vec::with_capacity(deliveries.len());
        let most_bytes = self.shared.peers.most_bytes(&edge.id);
        let (mut bytes, mut bulk) = (0, Bulk::of(deliveries.len()));
        for (delivery, key) in deliveries.into_iter().zip(keys) {
            if bytes > most_bytes {
                outcomes.push((delivery, Outcome::Wait(Waiting::PushFull)));
                continue;
            }
            match copy_of(&maker, &delivery, key, &mut bulk) {
                Ok(copy) => {
                    bytes += copy.length();
                    made.push((delivery, copy));
                }
                Err(outcome) => outcomes.push((delivery, outcome)),
            }
        }
        // What was opened is not kept while others are asked.
        drop(bulk);
        // Last, so that the permits are fresh.
        let asked = |(delivery, _): &(Delivery, Carried)| Asked {
            subject: delivery.event.data_subject,
            delivery_id: delivery.copy_id,
        };
        let asked: Vec<Asked> = made.iter().map(asked).collect();
        let answers = self.shared.consent.ask(edge, PURPOSE, &asked).await;
        let mut permits = Vec::with_capacity(made.len());
        let mut ready = Vec::with_capacity(made.len());
        for ((delivery, copy), answer) in made.into_iter().zip(answers) {
            match answer {
                Answer::Permit { id, window } => {
                    permits.push(id);
                    ready.push((delivery, Ready { copy, window }));
                }
                Answer::No(rule) => outcomes.push((delivery, Outcome::Refuse(Refused::Consent(rule)))),
                Answer::Unreachable => outcomes.push((delivery, Outcome::Wait(Waiting::ConsentUnreachable))),
            }
        }
        let (pushed, crossing) = self.push(edge, revision, ready, claimed).await;
        outcomes.extend(pushed);
        self.shared.consent.close(&edge.tenant, &permits).await;
        (outcomes, crossing)
    }

    /// Pushes what may still go, after a last look at the policy that no cut can overtake.
    async fn push(
        &self,
        edge: &CompiledEdge,
        revision: PolicyRevision,
        ready: Vec<(Delivery, Ready)>,
        claimed: usize,
    ) -> (Vec<(Delivery, Outcome)>, Option<Crossing>) {
        let _passage = self.shared.passage.read().await;
        let policy = self.shared.feed.current();
        let unchanged = policy.export(&edge.id).is_some_and(|current| current == edge);
        if !unchanged || !self.shared.feed.lease_valid() || edge.lawful_at(Timestamp::now()).is_err() {
            // Judged anew at once: by then it is clear whether it waits or ends.
            let waits = ready
                .into_iter()
                .map(|(delivery, _)| (delivery, Outcome::Wait(Waiting::PolicyStale)));
            return (waits.collect(), None);
        }
        let started = Instant::now();
        let mut until = started + LONGEST_PUSH;
        let mut outcomes = Vec::with_capacity(ready.len());
        let mut going = Vec::with_capacity(ready.len());
        let mut copies = Vec::with_capacity(ready.len());
        for (delivery, one) in ready {
            if one.window.admits(started + SHORTEST_PUSH) {
                until = until.min(one.window.until());
                copies.push(one.copy);
                going.push(delivery);
            } else {
                outcomes.push((delivery, Outcome::Wait(Waiting::PermitLapsed)));
            }
        }
        if going.is_empty() {
            return (outcomes, None);
        }
        let at = Timestamp::now();
        let form = self.shared.peers.form(&edge.id);
        let body = form.body(edge, revision, &copies);
        let digest = digest(&body);
        // Ends with the first permit: connecting may take long, and nothing may start after it. What had arrived by then is
        // pushed again under the same ids, and recognised.
        let had = until.saturating_duration_since(Instant::now());
        let began = Instant::now();
        let Sent { answer, bytes } = self.post(&edge.to, form, body, had).await;
        let push = Push {
            form,
            claimed,
            copies: copies.len(),
            bytes,
            had,
            took: began.elapsed(),
        };
        let said = answer.and_then(|answer| taken(&answer, push.copies));
        let older = self.shared.peers.learn(&edge.id, &push, &said);
        let outcome = match said {
            Ok(()) => None,
            Err(_) if older => Some(Ok(Waiting::ImporterOlder)),
            Err(error) => Some(refused_or_waiting(&error)),
        };
        let crossing = Crossing {
            at,
            bytes,
            digest,
            subjects: going.iter().map(|delivery| delivery.event.data_subject).collect(),
        };
        outcomes.extend(going.into_iter().map(|delivery| {
            let outcome = match &outcome {
                None => Outcome::Sent,
                Some(Ok(waiting)) => Outcome::Wait(*waiting),
                Some(Err(refused)) => Outcome::Refuse(refused.clone()),
            };
            (delivery, outcome)
        }));
        (outcomes, Some(crossing))
    }

    async fn post(&self, to: &RegionName, form: Form, body: Vec<u8>, within: Duration) -> Sent {
        match self.shared.peers.replicator(to) {
            Ok(peer) => peer.copies.post(form.path(), body.into(), within).await,
            Err(error) => Sent {
                answer: Err(error),
                bytes: 0,
            },
        }
    }
}

/// Opens, redacts and seals an event for the edge.
fn copy_of(
    maker: &Maker<'_>,
    delivery: &Delivery,
    key: Result<SubjectKey, subject_keys::Error>,
    bulk: &mut Bulk,
) -> Result<Carried, Outcome> {
    let event = &delivery.event;
    let Maker { edge, now, .. } = maker;
    // Of every type that is delivered it is known what leaves.
    let leaving = maker.leaving.get(&event.kind);
    let leaving = leaving.ok_or(Outcome::Refuse(Refused::NothingToSend))?;
    let fields = key.and_then(|key| event.open_as(bulk, &key, Only(leaving.names())));
    let fields = fields.map_err(|error| match error {
        subject_keys::Error::KeyDestroyed | subject_keys::Error::KeyAbsent => Outcome::Refuse(Refused::Erased),
        error if error.is_transient() => Outcome::Wait(Waiting::KeyringUnreachable),
        // It will never open: there is nothing in it for anyone.
        _ => Outcome::Refuse(Refused::NothingToSend),
    })?;
    let opened = OpenedEvent {
        tenant: &event.tenant,
        subject: event.data_subject.as_uuid(),
        time: event.time,
        imported: event.origin.is_some(),
        fields,
    };
    let outgoing = prepare(opened, leaving, &maker.key, delivery.copy_id, *now);
    let outgoing = outgoing.map_err(|withheld| match withheld {
        Withheld::NotLawful(denial) if denial.rule == Rule::ConditionNotMet && edge.may_hold_later() => {
            Outcome::Wait(Waiting::NotAtThisHour)
        }
        Withheld::NotLawful(denial) => Outcome::Refuse(Refused::Policy(denial.rule)),
        Withheld::NotOfThisEdge { .. } | Withheld::Onward => Outcome::Refuse(Refused::Policy(Rule::NoEdge)),
        Withheld::NothingToSend => Outcome::Refuse(Refused::NothingToSend),
    })?;
    sealed(maker, &event.kind, &outgoing, bulk).map_err(|_| Outcome::Wait(Waiting::KeyringUnreachable))
}

/// The envelope of what leaves: a new id, the pseudonym, the day, and nothing of the original's trace.
fn sealed(maker: &Maker<'_>, kind: &str, outgoing: &Outgoing, bulk: &mut Bulk) -> Result<Carried, subject_keys::Error> {
    let draft = CarriedDraft {
        id: outgoing.id,
        kind,
        time: outgoing.day,
        class: outgoing.class,
        expires: outgoing.expires,
    };
    let key = maker.import_key.for_subject(SubjectId(outgoing.author));
    Carried::sealed(draft, &key, bulk, &outgoing.fields)
}

/// An importer's answer to a push of so many copies: it has each of them.
fn taken(answer: &[u8], copies: usize) -> Result<(), ClientError> {
    let wrong = |problem: String| ClientError::Answer {
        peer: crate::REPLICATOR.to_owned(),
        problem,
    };
    let Stored { stored, repeated } = serde_json::from_slice(answer).map_err(|error| wrong(error.to_string()))?;
    if stored.checked_add(repeated) != Some(copies as u64) {
        return Err(wrong(format!("of {copies} copies it has {stored}, and had {repeated}")));
    }
    Ok(())
}

/// The key that a delivery's event is sealed under.
fn key_of(delivery: &Delivery) -> KeyRequest {
    KeyRequest {
        tenant: delivery.event.tenant.clone(),
        subject: delivery.event.data_subject,
        scope: delivery.event.key_scope.clone(),
        create: false,
    }
}

fn all_wait(deliveries: Vec<Delivery>, waiting: Waiting) -> Vec<(Delivery, Outcome)> {
    deliveries
        .into_iter()
        .map(|delivery| (delivery, Outcome::Wait(waiting)))
        .collect()
}

/// What an importer's answer means: its policy may be a moment behind ours, so that it knows no such edge is no last
/// word; that it wants none of it is.
fn refused_or_waiting(error: &ClientError) -> Result<Waiting, Refused> {
    tracing::warn!(%error, "a batch was not taken by its importer");
    let ClientError::Refused {
        status: StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST,
        code: Some(code),
        ..
    } = error
    else {
        return Ok(Waiting::ImporterUnreachable);
    };
    let may_pass = [Rule::NoEdge, Rule::MechanismNotInForce, Rule::PolicyStale];
    if may_pass.iter().any(|rule| rule.as_str() == code) {
        return Ok(Waiting::ImporterUnreachable);
    }
    Err(Refused::Importer(code.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_importer_that_has_each_copy_has_taken_them() {
        let table = [
            ("all new", r#"{"stored": 5, "repeated": 0}"#, true),
            ("some were there", r#"{"stored": 2, "repeated": 3}"#, true),
            ("one is missing", r#"{"stored": 4, "repeated": 0}"#, false),
            ("one too many", r#"{"stored": 4, "repeated": 2}"#, false),
            ("nonsense", r#"{"stored": 18446744073709551615, "repeated": 6}"#, false),
            ("another answer", "{}", false),
        ];
        for (case, answer, all) in table {
            assert_eq!(taken(answer.as_bytes(), 5).is_ok(), all, "{case}");
        }
    }
}
