//! A hub in front of members that know more than it does: it lost its state, or it is a second one started by mistake.
//!
//! | module | what it is for |
//! |---|---|
//! | [`claim`] | which hub writes into a member: one at a time |
//! | [`unknown`] | tenants that a member holds and the hub does not know: nothing of theirs is cut |

pub mod claim;
pub mod unknown;
