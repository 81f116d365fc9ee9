-- A permit: one delivery to one subject may start within its short life.
create table permit (
    tenant      text not null,
    epoch       bigint not null,
    id          uuid primary key,
    subject     uuid not null,
    purpose     text not null,
    class       text not null,
    service     text not null,
    deliverer   text not null,
    delivery_id text not null,
    opened_at   timestamptz not null default clock_timestamp(),
    closed_at   timestamptz
);
select meridian_guard('permit');
create index permit_open on permit (tenant, subject, purpose) where closed_at is null;
create index permit_opened_at on permit (tenant, opened_at);

-- Who closes a permit knows its id, which nobody can guess, and not the tenant: it may look up exactly that row.
create policy permit_by_its_id on permit for select
    using (id::text = current_setting('meridian.permit', true));
