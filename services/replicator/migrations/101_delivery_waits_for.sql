-- Why a delivery waits, from its last attempt; null while it is queued anew or taken. What waits for the policy alone is due
-- as soon as the policy is known to be current again, however long its pause has grown.
alter table delivery add column waits_for text;
