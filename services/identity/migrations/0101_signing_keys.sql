-- Keys that sign this region's tokens. The one table here without tenant and epoch, and so without row-level security:
-- a token's issuer is the region, one key signs for all its tenants, and a key is no tenant's data. The private half is
-- sealed under a key derived from the region's pepper file, so that neither a dump nor a backup can sign.

create table signing_key (
    kid            text        primary key check (length(kid) <= 64),
    signs_from     timestamptz not null,
    public_key     bytea       not null check (octet_length(public_key) = 32),
    sealed_private bytea       not null,
    created_at     timestamptz not null default now()
);
