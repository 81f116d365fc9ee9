//! promotions' tables. Tenant and epoch are the transaction's: row-level security sees to both.

pub mod audience;
pub mod campaigns;
pub mod deliveries;

use meridian_kit::db::{self, TenantTx};

/// Where the two sides of one race meet: somebody becomes reachable while a campaign is launched. Those who change what
/// we know of athletes share it, a launch holds it alone, so that each sees the other's work or comes before it.
async fn lock_audience(tx: &mut TenantTx, alone: bool) -> Result<(), db::Error> {
    let statement = if alone {
        "select pg_advisory_xact_lock(hashtextextended('promotions.audience/' || meridian_tenant(), 0))"
    } else {
        "select pg_advisory_xact_lock_shared(hashtextextended('promotions.audience/' || meridian_tenant(), 0))"
    };
    sqlx::query(statement).execute(tx.conn()).await?;
    Ok(())
}
