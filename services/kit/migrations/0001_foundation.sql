-- What every service's database begins with: the fence, row-level security, the outbox, the inbox, idempotency.
-- Runs as the owner role. The runtime role gets DML on tables through default privileges (`meridian migrate cluster`).

-- The tenant and epoch of the transaction in hand, set by meridian_enter and gone when it ends.
create function meridian_tenant() returns text
    language sql stable
    as $$ select nullif(current_setting('meridian.tenant', true), '') $$;

create function meridian_epoch() returns bigint
    language sql stable
    as $$ select nullif(current_setting('meridian.epoch', true), '')::bigint $$;

-- The epoch at which a tenant may be written here. It only grows, and no row is ever taken away: a fence that is gone
-- would admit every epoch again.
create table tenant_fence (
    tenant    text primary key,
    epoch     bigint not null check (epoch >= 0),
    raised_at timestamptz not null default now()
);

create function meridian_fence_only_grows() returns trigger
    language plpgsql
    as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'the fence of a tenant is never removed';
    end if;
    if new.tenant <> old.tenant or new.epoch <= old.epoch then
        raise exception 'the fence of a tenant only grows';
    end if;
    return new;
end $$;

create trigger meridian_fence_only_grows before update or delete on tenant_fence
    for each row execute function meridian_fence_only_grows();

create function fence_admits(tenant text, epoch bigint) returns boolean
    language sql stable
    as $$ select exists (select 1 from tenant_fence f where f.tenant = $1 and f.epoch = $2) $$;

-- Enters a tenant's scope for the rest of the transaction and returns the fence (null for an unknown tenant).
-- The shared lock is held until the transaction ends: raising the fence waits for it, so no transaction that was admitted
-- can commit after a higher fence is in force.
create function meridian_enter(tenant text, epoch bigint) returns bigint
    language plpgsql
    as $$
declare
    fence bigint;
begin
    perform pg_advisory_xact_lock_shared(hashtextextended('meridian.fence/' || meridian_enter.tenant, 0));
    perform set_config('meridian.tenant', meridian_enter.tenant, true);
    perform set_config('meridian.epoch', meridian_enter.epoch::text, true);
    select f.epoch into fence from tenant_fence f where f.tenant = meridian_enter.tenant;
    return fence;
end $$;

-- Raises the fence and returns it. When this returns, no transaction of an older epoch can commit any more.
create function meridian_raise_fence(tenant text, epoch bigint) returns bigint
    language plpgsql
    as $$
declare
    fence bigint;
begin
    select f.epoch into fence from tenant_fence f where f.tenant = meridian_raise_fence.tenant;
    if fence >= meridian_raise_fence.epoch then
        return fence;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('meridian.fence/' || meridian_raise_fence.tenant, 0));
    insert into tenant_fence as f (tenant, epoch)
        values (meridian_raise_fence.tenant, meridian_raise_fence.epoch)
        on conflict on constraint tenant_fence_pkey do update
            set epoch = excluded.epoch, raised_at = now() where f.epoch < excluded.epoch;
    select f.epoch into fence from tenant_fence f where f.tenant = meridian_raise_fence.tenant;
    return fence;
end $$;

-- Writes the transaction's epoch into each row that it inserts or changes; the policy then holds it against the fence.
create function meridian_stamp() returns trigger
    language plpgsql
    as $$
begin
    new.epoch := meridian_epoch();
    return new;
end $$;

-- Puts a table with columns (tenant text not null, epoch bigint not null) under guard: a transaction sees and writes its
-- own tenant's rows only, the owner included, and writes only at the current epoch. Call it once for each table.
create function meridian_guard(target regclass) returns void
    language plpgsql
    as $$
begin
    execute format('alter table %s alter column tenant set default meridian_tenant()', target);
    execute format('alter table %s alter column epoch set default meridian_epoch()', target);
    execute format('alter table %s enable row level security', target);
    execute format('alter table %s force row level security', target);
    execute format(
        'create policy meridian_tenant on %s using (tenant = meridian_tenant()) '
        'with check (tenant = meridian_tenant() and fence_admits(tenant, epoch))', target);
    execute format(
        'create trigger meridian_stamp before insert or update on %s '
        'for each row execute function meridian_stamp()', target);
end $$;

-- Events that were committed with the change they tell of, and wait for the broker. The payload is a CloudEvent whose
-- data is sealed; the relay reads and deletes across tenants, and can do nothing else.
create table outbox (
    id         bigint generated always as identity primary key,
    tenant     text not null,
    epoch      bigint not null,
    topic      text not null,
    key        text not null,
    event_id   uuid not null,
    event      bytea not null,
    created_at timestamptz not null default now()
);
select meridian_guard('outbox');
create policy meridian_relay_reads on outbox for select using (current_setting('meridian.relay', true) = 'on');
create policy meridian_relay_deletes on outbox for delete using (current_setting('meridian.relay', true) = 'on');

-- Appends an event. Events of one key get ids in the order in which their transactions commit, because the lock makes the
-- second wait for the first to end; ids alone are handed out before the commit and would not say.
create function meridian_append(topic text, key text, event_id uuid, event bytea) returns void
    language plpgsql
    as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('meridian.outbox/' || meridian_append.topic || '/' || meridian_append.key, 0));
    insert into outbox (topic, key, event_id, event)
        values (meridian_append.topic, meridian_append.key, meridian_append.event_id, meridian_append.event);
end $$;

create function meridian_outbox_wake() returns trigger
    language plpgsql
    as $$
begin
    perform pg_notify('meridian_outbox', '');
    return null;
end $$;

create trigger meridian_outbox_wake after insert on outbox
    for each statement execute function meridian_outbox_wake();

-- Events that a consumer has handled: its mark commits with what it did.
create table inbox (
    tenant     text not null,
    epoch      bigint not null,
    consumer   text not null,
    event_id   uuid not null,
    handled_at timestamptz not null default now(),
    primary key (tenant, consumer, event_id)
);
select meridian_guard('inbox');
create index inbox_handled_at on inbox (tenant, handled_at);

-- Answers to requests with an Idempotency-Key, sealed under the subject's key.
create table idempotency (
    tenant         text not null,
    epoch          bigint not null,
    subject        text not null,
    key            text not null,
    request_digest bytea not null,
    status         integer,
    response       bytea,
    created_at     timestamptz not null default now(),
    primary key (tenant, subject, key)
);
select meridian_guard('idempotency');
create index idempotency_created_at on idempotency (tenant, created_at);
