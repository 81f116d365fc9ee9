-- As meridian_append for events of one key, in their order. Gives the rows' ids, in the same order: whoever has the events in
-- memory tells the relay which rows they are. The ids ascend with the places, since a column's default is evaluated after the
-- sort. meridian_append stays for the release before this one.
create function meridian_append_all(topic text, key text, event_ids uuid[], events bytea[]) returns bigint[]
    language plpgsql
    as $$
declare
    ids bigint[];
begin
    perform pg_advisory_xact_lock(hashtextextended('meridian.outbox/' || meridian_append_all.topic || '/' || meridian_append_all.key, 0));
    with appended as (
        insert into outbox (topic, key, event_id, event)
            select meridian_append_all.topic, meridian_append_all.key, given.event_id, given.event
            from unnest(meridian_append_all.event_ids, meridian_append_all.events) with ordinality as given (event_id, event, place)
            order by place
            returning id
    )
    select coalesce(array_agg(id order by id), '{}') from appended into ids;
    return ids;
end $$;
