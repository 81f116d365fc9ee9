-- The user as events (the source of truth) and the account read table beside it. Personal fields are sealed under the
-- subject's personal key before they get here; e-mail is found through a keyed index (HMAC), never by its text.

create table user_event (
    tenant      text        not null,
    epoch       bigint      not null,
    stream      uuid        not null,
    version     bigint      not null check (version > 0),
    name        text        not null check (length(name) <= 40),
    sealed      bytea       not null,
    recorded_at timestamptz not null default now(),
    -- Optimistic concurrency: two writers cannot both append the same version.
    primary key (tenant, stream, version)
);
select meridian_guard('user_event');

create table account (
    tenant         text        not null,
    epoch          bigint      not null,
    subject        uuid        not null,
    email_index    bytea       not null check (octet_length(email_index) = 32),
    sealed_email   bytea       not null,
    -- argon2id, with a pepper that is not in this database.
    password_hash  text        not null check (length(password_hash) <= 256),
    sealed_user    bytea       not null,
    version        bigint      not null check (version > 0),
    created_at     timestamptz not null default now(),
    last_login     timestamptz,
    primary key (tenant, subject),
    constraint account_email unique (tenant, email_index)
);
select meridian_guard('account');
