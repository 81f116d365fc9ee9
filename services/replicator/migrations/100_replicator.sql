-- Edges that leave from here: what has been done about each.
create table export_edge (
    tenant      text        not null,
    epoch       bigint      not null,
    edge        text        not null,
    to_region   text        not null,
    state       text        not null check (state in ('open', 'cutting', 'cut')),
    rule        text        not null,
    revision    bigint      not null,
    changed_at  timestamptz not null default now(),
    -- The importer's acknowledgement of its purge.
    purged      bigint,
    sinks       text[]      not null default '{}',
    -- The region operator knows as well.
    reported    boolean     not null default false,
    primary key (tenant, edge)
);
select meridian_guard('export_edge');

-- Deliveries that wait: one per event and edge. The event is as it was consumed, its payload sealed under its subject's key.
create table delivery (
    tenant       text        not null,
    epoch        bigint      not null,
    -- The id under which the copy leaves; minted here, so that a push that is repeated is recognised.
    copy_id      uuid        not null,
    edge         text        not null,
    source_event uuid        not null,
    event        bytea       not null,
    queued_at    timestamptz not null default now(),
    attempts     integer     not null default 0,
    next_attempt timestamptz not null default now(),
    primary key (tenant, copy_id),
    unique (tenant, edge, source_event)
);
create index delivery_due on delivery (tenant, edge, next_attempt);
select meridian_guard('delivery');

-- Edges that arrive here.
create table import_edge (
    tenant       text        not null,
    epoch        bigint      not null,
    edge         text        not null,
    origin       text        not null,
    state        text        not null check (state in ('open', 'cutting', 'cut')),
    rule         text        not null,
    revision     bigint      not null,
    changed_at   timestamptz not null default now(),
    -- The purge in work, or the last one.
    purge_id     uuid,
    -- Copies deleted here and, as they acknowledged, by the sinks.
    purged       bigint      not null default 0,
    -- Offsets of imports.events by partition, past this edge's copies and the purge's own event: deleted up to there once
    -- every sink is past them.
    purge_upto   jsonb,
    reported     boolean     not null default false,
    primary key (tenant, edge)
);
select meridian_guard('import_edge');

-- Copies from other regions, as they arrived: sealed under the exporter's leased key, under the origin's law.
create table imported_event (
    tenant       text        not null,
    epoch        bigint      not null,
    origin_event uuid        not null,
    edge         text        not null,
    origin       text        not null,
    origin_epoch bigint      not null,
    author       uuid        not null,
    expires_at   timestamptz not null,
    sealed       bytea       not null,
    received_at  timestamptz not null default now(),
    primary key (tenant, origin_event)
);
create index imported_event_of_edge on imported_event (tenant, edge);
create index imported_event_expiry on imported_event (tenant, expires_at);
select meridian_guard('imported_event');

-- Who has deleted its copies for a purge.
create table purge_ack (
    tenant       text        not null,
    epoch        bigint      not null,
    purge_id     uuid        not null,
    sink         text        not null,
    purged       bigint      not null,
    acked_at     timestamptz not null default now(),
    primary key (tenant, purge_id, sink)
);
select meridian_guard('purge_ack');

-- What crossed, what did not, and why. Holds no personal data: copies by salted commitment only.
create table evidence (
    tenant       text        not null,
    epoch        bigint      not null,
    entry_no     bigint      not null check (entry_no > 0),
    at           timestamptz not null,
    kind         text        not null check (kind in ('transfer', 'refusal', 'cut', 'purge')),
    edge         text        not null,
    rule         text        not null,
    mechanism    text,
    instrument   text,
    count        bigint      not null,
    bytes        bigint      not null,
    salt         bytea       not null,
    commitment   bytea       not null,
    revision     bigint      not null,
    prev_hash    bytea       not null,
    hash         bytea       not null,
    primary key (tenant, entry_no)
);
select meridian_guard('evidence');

create function evidence_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'evidence is append-only: record another entry instead of changing one';
end
$$;
create trigger append_only before update or delete on evidence
    for each row execute function evidence_is_append_only();
