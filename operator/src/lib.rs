//! The Meridian operator: a hub role that compiles policy into desired states, and a region role that lays them down.
//!
//! Every controller is one module whose files follow one order: `observe → validate → plan (pure) → apply → status`.
//! Only `observe` and `apply` touch a Kubernetes client; `plan` is a function from validated input to manifests.
//!
//! | module | what it is for |
//! |---|---|
//! | [`manifest`] | the kinds we write, a planned object, its key |
//! | [`apply`] | server-side apply, one field manager per purpose, skipping writes that would change nothing; pruning |
//! | [`watch`] | a cache of observed objects fed by watches, which tells controllers what changed |
//! | [`packed`] | an observed object in little memory, for a hub that observes many |
//! | [`policy_form`] | how a policy lies in a RegionStack |
//! | [`reconcile`] | the work queue: one pass per object at a time, back-off per object, bounded concurrency |
//! | [`conditions`] | status conditions that keep their transition times and follow kstatus |
//! | [`finalizer`] | a deleted resource stays until what depends on it is gone |
//! | [`election`] | one writer per role: a Lease whose loser stops before it ends |
//! | [`events`], [`metrics`], [`admin`] | what people and Prometheus see |
//! | [`member`] | a client for a member cluster from a hardened kubeconfig |
//! | `listener` | TLS that no slow client holds up |
//! | `rotation` | what the rotations of certificates have in common |
//! | [`tasks`] | background tasks whose death ends the process |
//! | `trace` | spans of passes, for OpenTelemetry |
//! | [`region`] | the region role |
//! | [`plugin`] | `kubectl meridian` |

pub mod admin;
pub mod apply;
pub mod conditions;
pub mod election;
pub mod events;
pub mod finalizer;
pub mod hub;
mod listener;
pub mod manifest;
pub mod member;
pub mod metrics;
pub mod packed;
pub mod plugin;
pub mod policy_form;
pub mod reconcile;
pub mod region;
mod rotation;
pub mod tasks;
mod trace;
pub mod watch;

pub use hub::{HubArgs, run_hub};
pub use region::{RegionArgs, run_region};
pub use tasks::RunError;
