-- Why a delivery waits, from its last attempt; null while it is queued anew or taken. What waits for the policy alone is due
-- as soon as the policy is known to be current again, however long its pause has grown.
alter table delivery add column waits_for text;

-- These are looked for twice a second for each tenant, and `next_attempt` does not find them: their pause has not ended.
create index delivery_policy_stale on delivery (tenant, edge, queued_at) where waits_for = 'policy-stale';
