//! Events that an edge concerns are queued for it, in the transaction that marks them as consumed: from then on they are
//! delivered or end with an entry of evidence.

use meridian_kit::db::TenantTx;
use meridian_kit::event::Event;
use meridian_kit::kafka::{Failure, Handled, Handler};

use super::{Exporter, class_of};
use crate::domain::outgoing::concerns;
use crate::store::exports;

/// The consumer of this region's own events.
pub struct Queue(pub Exporter);

impl Handler for Queue {
    async fn handle(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        if event.origin.is_some() {
            return Ok(Handled::Ignored);
        }
        let policy = self.0.shared.feed.current();
        let mut handled = Handled::Ignored;
        for edge in &policy.exports {
            if edge.tenant == event.tenant && concerns(edge, &event.kind, class_of) {
                exports::queue(tx, &edge.id, event).await?;
                handled = Handled::Done;
            }
        }
        if handled == Handled::Done {
            // Before the commit; if the deliverer looks too early it looks again soon.
            self.0.shared.wake.notify_one();
        }
        Ok(handled)
    }
}
