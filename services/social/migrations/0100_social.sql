-- Who follows whom. Ids are opaque; names are sealed elsewhere.
create table follow (
    tenant   text not null,
    epoch    bigint not null,
    follower uuid not null,
    followed uuid not null,
    since    timestamptz not null default now(),
    primary key (tenant, follower, followed),
    check (follower <> followed)
);
select meridian_guard('follow');
create index follow_followed on follow (tenant, followed);

-- What identity told about an athlete. Someone who is not here yet is seen by nobody.
create table person (
    tenant   text not null,
    epoch    bigint not null,
    subject  uuid not null,
    version  bigint not null,
    profile  text not null check (profile in ('everyone', 'followers', 'only-me')),
    workouts text not null check (workouts in ('everyone', 'followers', 'only-me')),
    name     bytea not null,
    primary key (tenant, subject)
);
select meridian_guard('person');

-- What training told about a workout: this service's own copy, sealed under its author's key.
create table workout (
    tenant     text not null,
    epoch      bigint not null,
    workout_id uuid not null,
    author     uuid not null,
    version    bigint not null,
    status     text not null check (status in ('started', 'completed', 'cancelled')),
    -- Set on the workout; absent: the author's general setting holds.
    visibility text check (visibility in ('everyone', 'followers', 'only-me')),
    -- Chosen when it was shared; goes before both.
    shared     text check (shared in ('everyone', 'followers')),
    shares     bigint not null default 0,
    feed_at    timestamptz not null,
    summary    bytea not null,
    primary key (tenant, workout_id)
);
select meridian_guard('workout');
create index workout_feed on workout (tenant, feed_at desc, workout_id desc) where status = 'completed';
create index workout_author on workout (tenant, author, feed_at desc);

-- What came from another region, as it came: the payload stays sealed under the key that the exporter leases, and is
-- opened only to be shown.
create table imported_workout (
    tenant     text not null,
    epoch      bigint not null,
    id         uuid not null,
    origin     text not null,
    edge       text not null,
    expires_at timestamptz not null,
    author     uuid not null,
    day        timestamptz not null,
    feed_at    timestamptz not null default clock_timestamp(),
    payload    bytea not null,
    primary key (tenant, id)
);
select meridian_guard('imported_workout');
create index imported_workout_feed on imported_workout (tenant, feed_at desc, id desc);
create index imported_workout_edge on imported_workout (tenant, edge);
create index imported_workout_expiry on imported_workout (tenant, expires_at);

-- Purges that were carried out here and are still to be acknowledged to the replicator.
create table import_purge (
    tenant    text not null,
    epoch     bigint not null,
    purge_id  uuid not null,
    edge      text not null,
    purged    bigint not null,
    purged_at timestamptz not null default now(),
    primary key (tenant, purge_id)
);
select meridian_guard('import_purge');
