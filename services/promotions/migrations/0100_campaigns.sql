-- Campaigns are the organization's, not about anybody.
create table campaign (
    tenant      text        not null,
    epoch       bigint      not null,
    id          uuid        not null,
    name        text        not null check (length(name) <= 64),
    title       text        not null,
    body        text        not null,
    -- Null: everybody who consented.
    sport_type  text        check (length(sport_type) <= 40),
    state       text        not null default 'draft' check (state in ('draft', 'launching', 'launched')),
    -- While launching: the last athlete who was looked at.
    expanded_to uuid,
    created_at  timestamptz not null default now(),
    launched_at timestamptz,
    primary key (tenant, id),
    constraint campaign_name unique (tenant, name)
);
select meridian_guard('campaign');

-- What consent and workouts told us. It may refuse a delivery and it may make us ask for one, nothing more.
create table athlete (
    tenant            text    not null,
    epoch             bigint  not null,
    subject           uuid    not null,
    -- marketing/promotion: the newest change that we heard of, and whether it granted.
    promotion_version bigint  not null default 0,
    promotion         boolean not null default false,
    -- marketing/workout-summary.
    workouts_version  bigint  not null default 0,
    workouts          boolean not null default false,
    -- The kinds of sport, sealed; only while both stand.
    sealed_sports     bytea,
    primary key (tenant, subject),
    check (workouts or sealed_sports is null)
);
select meridian_guard('athlete');
create index athlete_reachable on athlete (tenant, subject) where promotion;

-- Deliveries to be tried. A row is a question to the consent service, not yet a promise.
create table pending (
    tenant   text        not null,
    epoch    bigint      not null,
    campaign uuid        not null,
    subject  uuid        not null,
    -- Grows each time there is a new reason to ask; a refusal that is older than the last reason does not count.
    wakeups  bigint      not null default 0,
    attempts integer     not null default 0,
    due      timestamptz not null default now(),
    primary key (tenant, campaign, subject),
    foreign key (tenant, campaign) references campaign (tenant, id)
);
select meridian_guard('pending');
create index pending_due on pending (tenant, due);
create index pending_subject on pending (tenant, subject);

-- What was delivered: once per campaign and athlete, whatever is repeated.
create table delivery (
    tenant       text        not null,
    epoch        bigint      not null,
    id           uuid        not null,
    campaign     uuid        not null,
    subject      uuid        not null,
    delivered_at timestamptz not null default clock_timestamp(),
    primary key (tenant, id),
    constraint delivery_once unique (tenant, campaign, subject),
    foreign key (tenant, campaign) references campaign (tenant, id)
);
select meridian_guard('delivery');
create index delivery_inbox on delivery (tenant, subject, delivered_at desc, id desc);
