-- Evidence: entries wait here, committed with what they record, until the sealer links them.
create table evidence_pending (
    id     bigint generated always as identity primary key,
    tenant text not null,
    epoch  bigint not null,
    kind   text not null,
    edge   text,
    rule   text,
    entry  bytea not null
);
select meridian_guard('evidence_pending');
create policy meridian_sealer_reads on evidence_pending for select using (current_setting('meridian.sealer', true) = 'on');
create policy meridian_sealer_deletes on evidence_pending for delete using (current_setting('meridian.sealer', true) = 'on');

-- Whether anything waits, for the sealer to ask often.
create function meridian_evidence_waits() returns boolean
    language plpgsql
    as $$
begin
    perform set_config('meridian.sealer', 'on', true);
    return exists (select 1 from evidence_pending);
end $$;

-- The chain of this service. `entry` is what counts; kind, edge and rule are for finding it.
create table evidence_chain (
    seq    bigint primary key check (seq > 0),
    tenant text,
    kind   text not null,
    edge   text,
    rule   text,
    entry  bytea not null,
    hash   bytea not null
);
create index evidence_chain_of_tenant on evidence_chain (tenant, seq);
alter table evidence_chain enable row level security;
alter table evidence_chain force row level security;
create policy meridian_tenant_reads on evidence_chain for select using (tenant = meridian_tenant());
create policy meridian_sealer_reads on evidence_chain for select using (current_setting('meridian.sealer', true) = 'on');
create policy meridian_sealer_links on evidence_chain for insert with check (current_setting('meridian.sealer', true) = 'on');

-- How far the chain was signed, and when that was told to the region's operator.
create table evidence_checkpoint (
    id         bigint generated always as identity primary key,
    size       bigint not null check (size >= 0),
    signed_at  timestamptz not null,
    checkpoint jsonb not null,
    told       boolean not null default false
);
alter table evidence_checkpoint enable row level security;
alter table evidence_checkpoint force row level security;
create policy meridian_sealer on evidence_checkpoint using (current_setting('meridian.sealer', true) = 'on')
    with check (current_setting('meridian.sealer', true) = 'on');

create function meridian_evidence_is_append_only() returns trigger
    language plpgsql
    as $$
begin
    raise exception 'evidence is append-only: record another entry instead of changing one';
end $$;

create trigger meridian_append_only before update or delete or truncate on evidence_chain
    for each statement execute function meridian_evidence_is_append_only();
