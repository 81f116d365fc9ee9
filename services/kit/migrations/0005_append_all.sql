-- As meridian_append for events of one key, in their order. Gives the rows' ids, in the same order: whoever has the events in
-- memory tells the relay which rows they are.
create function meridian_append_all(topic text, key text, event_ids uuid[], events bytea[]) returns bigint[]
    language plpgsql
    as $$
declare
    ids bigint[];
begin
    perform pg_advisory_xact_lock(hashtextextended('meridian.outbox/' || meridian_append_all.topic || '/' || meridian_append_all.key, 0));
    with appended as (
        insert into outbox (topic, key, event_id, event)
            select meridian_append_all.topic, meridian_append_all.key, new.event_id, new.event
            from unnest(event_ids, meridian_append_all.events) with ordinality as new (event_id, event, place)
            order by place
            returning id
    )
    select coalesce(array_agg(id order by id), '{}') from appended into ids;
    return ids;
end $$;
