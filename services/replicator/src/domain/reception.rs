//! What the importer of an edge takes: in which form, and how many copies at once. It says so in its answers to leases, and
//! what becomes of pushes says it too.

use std::time::{Duration, Instant};

use http::StatusCode;
use meridian_kit::client::ClientError;
use meridian_kit::problem::INVALID_FIELD;

use super::admission::{ALWAYS_TAKEN, BYTES_OF_AN_EVENT, LARGEST_BATCH, NotAdmitted, TAKEN_UNSAID};
use super::delivery::LONGEST_PAUSE;
use crate::wire::{Form, Leased};

/// How long an importer is believed to be of an older version: after that it may have been upgraded.
const BELIEVED_FOR: Duration = Duration::from_secs(600);
/// How long an importer that broke off gets only what every version takes: a refusal that comes before a push is read may be
/// lost with the connection. Longer than until the push is repeated.
const DOUBTED_FOR: Duration = LONGEST_PAUSE.saturating_mul(2);
/// Copies that go at once over the slowest line.
const FEWEST: usize = 25;
/// Bytes that a copy of a full push has at most, on the average: well below what an importer takes.
const BYTES_OF_A_COPY: usize = BYTES_OF_AN_EVENT / 4 * 3;
/// A push that had less time than this says nothing of the line.
const FAIR: Duration = Duration::from_secs(1);
/// More than leaves before a connection is made.
const HANDSHAKE_BYTES: u64 = 8 * 1024;

/// What not every importer takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Newer {
    /// More than [`ALWAYS_TAKEN`] copies at once.
    Many,
    /// [`Form::Carried`].
    Carried,
}

/// A push that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    /// In which form.
    pub form: Form,
    /// How many deliveries were claimed for it.
    pub claimed: usize,
    /// How many copies came of them.
    pub copies: usize,
    /// How many bytes left at most.
    pub bytes: u64,
    /// How long it might last.
    pub had: Duration,
    /// How long it lasted.
    pub took: Duration,
}

impl Push {
    /// What of it an importer of an older version does not take that refuses it so. That one of its processes is newer, and
    /// said so to a lease, is no help.
    fn too_new(&self, status: StatusCode, code: Option<&str>) -> Option<Newer> {
        let too_much = status == StatusCode::PAYLOAD_TOO_LARGE || code == Some(NotAdmitted::Size.code());
        if self.copies > ALWAYS_TAKEN && too_much {
            return Some(Newer::Many);
        }
        // It has no such address, or a batch there has other fields.
        let unread = status == StatusCode::NOT_FOUND || code == Some(INVALID_FIELD);
        (self.form == Form::Carried && unread).then_some(Newer::Carried)
    }

    fn ran_out_of_time(&self) -> bool {
        self.took >= self.had
    }

    /// Whether it shows that the line is slow: it had time, used it, and its copies were leaving.
    fn was_slow(&self) -> bool {
        self.ran_out_of_time() && self.had >= FAIR && self.bytes > HANDSHAKE_BYTES
    }
}

/// What is known of how an edge's importer takes copies.
#[derive(Clone, Debug)]
pub struct Reception {
    /// What it said last that it takes.
    leased: Leased,
    /// How many copies it is sent at most, and until when.
    few: Option<(usize, Instant)>,
    /// Until when it is sent whole events.
    whole_until: Option<Instant>,
    /// Copies that reach it in the time that a push has.
    in_time: usize,
}

impl Default for Reception {
    fn default() -> Self {
        Self {
            leased: Leased::default(),
            few: None,
            whole_until: None,
            in_time: LARGEST_BATCH,
        }
    }
}

impl Reception {
    /// Copies that go to it at once.
    pub fn most(&self, now: Instant) -> usize {
        self.in_time.min(self.taken(now))
    }

    /// Bytes that go to it at once, about.
    pub fn most_bytes(&self, now: Instant) -> usize {
        self.taken(now) * BYTES_OF_A_COPY
    }

    /// Copies that it takes at once, by its own word and by what it refused.
    fn taken(&self, now: Instant) -> usize {
        let said = self.leased.copies.unwrap_or(TAKEN_UNSAID).clamp(1, LARGEST_BATCH);
        let few = self.few.filter(|(_, until)| now < *until);
        let said = few.map_or(said, |(few, _)| said.min(few));
        match self.form(now) {
            Form::Carried => said,
            // Whole copies are larger, and whoever gets them may be of an older version.
            Form::Whole => said.min(TAKEN_UNSAID),
        }
    }

    /// In which form copies go to it: whole, until it says that it takes what is carried.
    pub fn form(&self, now: Instant) -> Form {
        if self.leased.carried && is_over(self.whole_until, now) {
            Form::Carried
        } else {
            Form::Whole
        }
    }

    /// It has answered a lease.
    pub fn has_leased(&mut self, leased: Leased) {
        self.leased = leased;
    }

    /// What became of a push. What it did not take because it is of an older version goes again without that.
    pub fn learn(&mut self, push: &Push, said: &Result<(), ClientError>, now: Instant) -> Option<Newer> {
        match said {
            Ok(()) if push.claimed >= self.in_time => {
                self.in_time = (self.in_time + self.in_time / 8 + 1).min(LARGEST_BATCH);
            }
            Err(ClientError::Refused { status, code, .. }) => {
                let newer = push.too_new(*status, code.as_deref());
                match newer {
                    Some(newer) => self.do_without(newer, push.copies, now + BELIEVED_FOR),
                    None if *status == StatusCode::PAYLOAD_TOO_LARGE => self.send_fewer_than(push.copies),
                    None => {}
                }
                return newer;
            }
            Err(ClientError::Unreachable { .. }) if push.was_slow() => {
                self.send_fewer_than(push.copies);
            }
            Err(ClientError::Unreachable { .. }) if push.bytes > 0 && !push.ran_out_of_time() => {
                self.do_without(Newer::Carried, push.copies, now + DOUBTED_FOR);
            }
            Ok(()) | Err(_) => {}
        }
        None
    }

    fn send_fewer_than(&mut self, copies: usize) {
        self.in_time = (copies / 2).clamp(FEWEST, self.in_time);
    }

    /// Does without what a push of so many copies was too new for.
    fn do_without(&mut self, newer: Newer, copies: usize, until: Instant) {
        match newer {
            Newer::Many if copies > TAKEN_UNSAID => self.few = Some((TAKEN_UNSAID, until)),
            Newer::Many => self.few = Some((ALWAYS_TAKEN, until)),
            Newer::Carried => self.whole_until = self.whole_until.max(Some(until)),
        }
    }
}

fn is_over(until: Option<Instant>, now: Instant) -> bool {
    until.is_none_or(|until| now >= until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARRIES: Leased = Leased {
        carried: true,
        copies: Some(LARGEST_BATCH),
    };

    fn reception() -> Reception {
        Reception {
            leased: CARRIES,
            ..Reception::default()
        }
    }

    /// A push of so many copies, of as many deliveries, that took a moment.
    fn push(form: Form, copies: usize) -> Push {
        Push {
            form,
            claimed: copies,
            copies,
            bytes: 600 * copies as u64,
            had: Duration::from_millis(1800),
            took: Duration::from_millis(20),
        }
    }

    fn slow(copies: usize) -> Push {
        let push = push(Form::Whole, copies);
        Push { took: push.had, ..push }
    }

    fn unreachable() -> Result<(), ClientError> {
        Err(ClientError::Unreachable {
            peer: "replicator".to_owned(),
            problem: "no answer".to_owned(),
        })
    }

    #[test]
    fn only_what_an_older_version_says_makes_an_importer_one() {
        let (many, few) = (ALWAYS_TAKEN + 1, ALWAYS_TAKEN);
        let (carried, whole) = (Form::Carried, Form::Whole);
        let table = [
            ("no such address", carried, few, 404, "not-found", Some(Newer::Carried)),
            ("other fields", carried, few, 400, "invalid-field", Some(Newer::Carried)),
            ("too many", carried, many, 403, "batch-size", Some(Newer::Many)),
            ("too many whole", whole, many, 403, "batch-size", Some(Newer::Many)),
            (
                "too many bytes",
                carried,
                many,
                413,
                "body-too-large",
                Some(Newer::Many),
            ),
            ("few are never too many", carried, few, 403, "batch-size", None),
            ("a copy that does not open", carried, many, 400, "copy-unreadable", None),
            ("a body that broke", carried, many, 400, "malformed-json", None),
            ("policies that differ", carried, many, 503, "policies-differ", None),
            ("whole is taken by all", whole, few, 404, "not-found", None),
        ];
        let now = Instant::now();
        for (case, form, copies, status, code, newer) in table {
            let mut reception = reception();
            let refused = Err(ClientError::Refused {
                peer: "replicator".to_owned(),
                status: StatusCode::from_u16(status).expect("a status"),
                code: Some(code.to_owned()),
                body: None,
            });
            assert_eq!(reception.learn(&push(form, copies), &refused, now), newer, "{case}");
            let (most, form) = match newer {
                None => (LARGEST_BATCH, Form::Carried),
                Some(Newer::Many) => (ALWAYS_TAKEN, Form::Carried),
                Some(Newer::Carried) => (TAKEN_UNSAID, Form::Whole),
            };
            assert_eq!((reception.most(now), reception.form(now)), (most, form), "{case}");
            let later = now + BELIEVED_FOR;
            assert_eq!(
                (reception.most(later), reception.form(later)),
                (LARGEST_BATCH, Form::Carried),
                "{case}"
            );
        }
    }

    #[test]
    fn an_importer_gets_as_many_as_it_says_and_one_that_says_nothing_as_before() {
        let now = Instant::now();
        let table = [
            (None, TAKEN_UNSAID, 768_000),
            (Some(0), 1, 1536),
            (Some(700), 700, 1_075_200),
            (Some(LARGEST_BATCH), LARGEST_BATCH, 1_536_000),
            (Some(usize::MAX), LARGEST_BATCH, 1_536_000),
        ];
        for (copies, most, bytes) in table {
            let mut reception = Reception::default();
            reception.has_leased(Leased { copies, ..CARRIES });
            assert_eq!(
                (reception.most(now), reception.most_bytes(now)),
                (most, bytes),
                "{copies:?}"
            );
        }
    }

    #[test]
    fn one_that_refuses_a_thousand_gets_five_hundred_and_then_a_hundred() {
        let (mut reception, now) = (reception(), Instant::now());
        let refused = |status, code: &str| {
            Err(ClientError::Refused {
                peer: "replicator".to_owned(),
                status,
                code: Some(code.to_owned()),
                body: None,
            })
        };
        let too_many = refused(StatusCode::FORBIDDEN, "batch-size");
        for (most, next) in [(LARGEST_BATCH, TAKEN_UNSAID), (TAKEN_UNSAID, ALWAYS_TAKEN)] {
            assert_eq!(reception.most(now), most);
            let learned = reception.learn(&push(Form::Carried, most), &too_many, now);
            assert_eq!((learned, reception.most(now)), (Some(Newer::Many), next));
        }
        assert_eq!(reception.most_bytes(now), ALWAYS_TAKEN * BYTES_OF_A_COPY);
        // Few that are too large go again as fewer.
        let too_large = refused(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
        assert_eq!(
            reception.learn(&push(Form::Carried, ALWAYS_TAKEN), &too_large, now),
            None
        );
        assert_eq!(reception.most(now), ALWAYS_TAKEN / 2);
        assert_eq!(reception.most(now + BELIEVED_FOR), ALWAYS_TAKEN / 2);
    }

    #[test]
    fn an_importer_that_broke_off_gets_the_same_again_whole_but_is_not_believed_to_be_older() {
        let (mut reception, now) = (reception(), Instant::now());
        assert_eq!(reception.learn(&push(Form::Carried, 3), &unreachable(), now), None);
        let doubted = now + LONGEST_PAUSE;
        assert_eq!(
            (reception.form(doubted), reception.most(doubted)),
            (Form::Whole, TAKEN_UNSAID)
        );
        let again = now + DOUBTED_FOR;
        assert_eq!(
            (reception.form(again), reception.most(again)),
            (Form::Carried, LARGEST_BATCH)
        );
        // What is known for longer is not forgotten for it.
        reception.do_without(Newer::Carried, 3, now + BELIEVED_FOR);
        reception.learn(&push(Form::Whole, 3), &unreachable(), now);
        assert_eq!(reception.form(now + DOUBTED_FOR), Form::Whole);
    }

    #[test]
    fn what_does_not_show_that_a_line_is_slow_makes_no_push_smaller() {
        let slow = slow(400);
        let no_connection = Push { bytes: 3000, ..slow };
        let no_time = Push {
            had: Duration::from_millis(100),
            ..slow
        };
        for (case, push) in [("no connection", no_connection), ("no time", no_time)] {
            let (mut reception, now) = (reception(), Instant::now());
            reception.learn(&push, &unreachable(), now);
            assert_eq!(reception.most(now), LARGEST_BATCH, "{case}");
        }
    }

    #[test]
    fn over_a_line_that_carries_few_in_time_all_go_and_most_pushes_arrive() {
        for line in [40, 100, 400] {
            let (mut reception, now) = (reception(), Instant::now());
            let (mut arrived, mut in_vain) = (0, 0);
            for _ in 0..200 {
                let copies = reception.most(now);
                let said = if copies <= line {
                    arrived += 1;
                    Ok(())
                } else {
                    in_vain += 1;
                    unreachable()
                };
                reception.learn(&slow(copies), &said, now);
            }
            assert!(
                arrived > 3 * in_vain,
                "{arrived} arrived, {in_vain} did not, over a line for {line}"
            );
        }
    }

    #[test]
    fn a_line_that_is_fast_again_is_filled_again_also_where_many_may_not_leave() {
        let (mut reception, now) = (reception(), Instant::now());
        for _ in 0..10 {
            reception.learn(&slow(reception.most(now)), &unreachable(), now);
        }
        assert_eq!(reception.most(now), FEWEST);
        reception.learn(&push(Form::Whole, FEWEST - 1), &Ok(()), now);
        assert_eq!(
            reception.most(now),
            FEWEST,
            "one that was not full says nothing of more"
        );
        for _ in 0..60 {
            let claimed = reception.most(now);
            let half_of_them = Push {
                claimed,
                ..push(Form::Whole, claimed / 2)
            };
            reception.learn(&half_of_them, &Ok(()), now);
        }
        assert_eq!(reception.most(now), LARGEST_BATCH);
    }
}
