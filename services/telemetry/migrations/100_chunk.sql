-- Samples, as sealed chunks: one row per accepted batch, partitioned by the month in which it was received. A month's
-- chunks of one athlete are sealed under one key, which is destroyed when their retention ends.
create table chunk (
    tenant    text        not null,
    epoch     bigint      not null,
    subject   uuid        not null,
    track_id  uuid        not null,
    batch_id  uuid        not null,
    month     date        not null check (extract(day from month) = 1),
    first_t   timestamptz not null,
    last_t    timestamptz not null,
    count     integer     not null check (count between 1 and 4096),
    sealed    bytea       not null,
    -- A partitioned table's key has to name the month; the writer looks for the batch in the other months itself.
    primary key (tenant, subject, track_id, batch_id, month),
    check (first_t <= last_t)
) partition by range (month);

-- Sealed bytes do not compress.
alter table chunk alter column sealed set storage external;

select meridian_guard('chunk');

-- The owner (that is: the functions below) sees whether a month still holds chunks of any tenant, before it drops it.
create policy telemetry_sweep on chunk for select to current_user using (true);

-- Totals of a recorded file. They outlive its coordinates, so they are sealed under the athlete's own key. The number of
-- samples says how many chunks' worth a complete track has.
create table track_summary (
    tenant     text        not null,
    epoch      bigint      not null,
    subject    uuid        not null,
    track_id   uuid        not null,
    samples    bigint      not null check (samples > 0),
    sealed     bytea       not null,
    created_at timestamptz not null default now(),
    primary key (tenant, subject, track_id)
);
select meridian_guard('track_summary');

-- Partitions live where the service's role cannot reach them: it sees chunks through their parent and its guard alone.
create schema chunk_month;

-- Makes the partition of a month. The service's role may not create tables, so this runs as the owner, and only for
-- months near now: a wrong date cannot litter the schema.
create function telemetry_make_month(wanted date) returns void
    language plpgsql security definer set search_path = pg_catalog, public
    as $$
declare
    first date := date_trunc('month', wanted)::date;
    name  text := to_char(date_trunc('month', wanted), '"m"YYYY_MM');
begin
    if to_regclass('chunk_month.' || name) is not null then
        return;
    end if;
    if first < (date_trunc('month', now()) - interval '3 months')::date
        or first > (date_trunc('month', now()) + interval '3 months')::date then
        raise exception 'no partition is made for % now', first;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('telemetry.month/' || name, 0));
    execute format('create table if not exists chunk_month.%I partition of public.chunk for values from (%L) to (%L)',
        name, first, (first + interval '1 month')::date);
    -- Without a policy of its own a partition admits nobody, its owner included.
    execute format('alter table chunk_month.%I enable row level security', name);
    execute format('alter table chunk_month.%I force row level security', name);
end $$;

create function telemetry_months() returns setof date
    language sql stable security definer set search_path = pg_catalog, public
    as $$
    select to_date(substr(c.relname, 2), 'YYYY_MM')
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'public.chunk'::regclass
    $$;

-- Drops the partition of a month that ended at least four weeks ago and holds nothing any more.
create function telemetry_drop_month(gone date) returns boolean
    language plpgsql security definer set search_path = pg_catalog, public
    as $$
declare
    first date := date_trunc('month', gone)::date;
    name  text := to_char(date_trunc('month', gone), '"m"YYYY_MM');
begin
    if (first + interval '1 month 28 days') > now() or to_regclass('chunk_month.' || name) is null then
        return false;
    end if;
    execute format('lock table chunk_month.%I in access exclusive mode', name);
    if exists (select 1 from public.chunk where month = first) then
        return false;
    end if;
    execute format('drop table chunk_month.%I', name);
    return true;
end $$;

do $$
begin
    for ahead in 0..2 loop
        perform telemetry_make_month((date_trunc('month', now()) + make_interval(months => ahead))::date);
    end loop;
end $$;
