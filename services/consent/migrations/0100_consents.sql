-- One row for each subject that ever said anything: permits and withdrawals of a subject line up on it, so that each
-- permit is either before a withdrawal (and then waited for) or after it (and then refused).
create table subject_gate (
    tenant  text not null,
    epoch   bigint not null,
    subject uuid not null,
    primary key (tenant, subject)
);
select meridian_guard('subject_gate');

-- Where each purpose and class stands now.
create table consent (
    tenant     text not null,
    epoch      bigint not null,
    subject    uuid not null,
    purpose    text not null,
    class      text not null,
    state      text not null check (state in ('granted', 'withdrawn')),
    version    bigint not null check (version >= 1),
    changed_at timestamptz not null,
    receipt_id uuid not null,
    primary key (tenant, subject, purpose, class)
);
select meridian_guard('consent');

-- Every change with its receipt, for ever in this order.
create table consent_history (
    tenant     text not null,
    epoch      bigint not null,
    id         bigint generated always as identity,
    subject    uuid not null,
    purpose    text not null,
    class      text not null,
    state      text not null check (state in ('granted', 'withdrawn')),
    version    bigint not null check (version >= 1),
    changed_at timestamptz not null,
    receipt_id uuid not null,
    receipt    bytea not null,
    primary key (tenant, id),
    unique (tenant, receipt_id),
    unique (tenant, subject, purpose, class, version)
);
select meridian_guard('consent_history');
create index consent_history_subject on consent_history (tenant, subject, id);

create function consent_history_is_append_only() returns trigger
    language plpgsql
    as $$
begin
    raise exception 'the history of consents is append-only';
end $$;

create trigger consent_history_is_append_only before update or delete or truncate on consent_history
    for each statement execute function consent_history_is_append_only();
