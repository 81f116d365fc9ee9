-- What a subject set against the use of their data: an objection to a purpose (Art 21 GDPR), or a restriction of every use
-- (Art 18), whose purpose is the empty text. Who never set one has no row.
create table processing_limit (
    tenant     text not null,
    epoch      bigint not null,
    subject    uuid not null,
    purpose    text not null,
    in_force   boolean not null,
    version    bigint not null check (version >= 1),
    changed_at timestamptz not null,
    primary key (tenant, subject, purpose)
);
select meridian_guard('processing_limit');
