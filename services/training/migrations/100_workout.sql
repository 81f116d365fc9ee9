-- The event store: the one source of truth about a workout. Kept until erasure.
create table workout_event (
    tenant      text        not null,
    epoch       bigint      not null,
    stream      uuid        not null,
    version     integer     not null check (version > 0),
    event_id    uuid        not null,
    subject     uuid        not null,
    sealed      bytea       not null,
    recorded_at timestamptz not null default now(),
    -- Two writers that both saw version n cannot both write n + 1.
    primary key (tenant, stream, version)
);
create index workout_event_of_subject on workout_event (tenant, subject);
select meridian_guard('workout_event');

-- Facts are never rewritten; erasure deletes them.
create function workout_event_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'workout_event is append-only: record another event instead of changing one';
end
$$;
create trigger append_only before update on workout_event
    for each row execute function workout_event_is_append_only();

-- Read models, written in the transaction that appends the events. Summary and List read the same rows.
create table workout_summary (
    tenant      text        not null,
    epoch       bigint      not null,
    workout_id  uuid        not null,
    subject     uuid        not null,
    version     integer     not null,
    started_at  timestamptz not null,
    sealed      bytea       not null,
    primary key (tenant, workout_id)
);
create index workout_list on workout_summary (tenant, subject, started_at desc, workout_id desc);
select meridian_guard('workout_summary');

-- The health class of a workout, apart from its summary.
create table workout_details (
    tenant      text        not null,
    epoch       bigint      not null,
    workout_id  uuid        not null,
    subject     uuid        not null,
    sealed      bytea       not null,
    primary key (tenant, workout_id)
);
create index workout_details_of_subject on workout_details (tenant, subject);
select meridian_guard('workout_details');
