-- Leaves of the product's tables what holds the rows and finds one by its id: what the other indexes cost is seen beside it.
do $$
declare
    each record;
begin
    for each in select conrelid::regclass as relation, conname from pg_constraint
                where contype = 'f' and connamespace = 'bloom'::regnamespace
    loop
        execute format('alter table %s drop constraint %I', each.relation, each.conname);
    end loop;
    for each in select indexrelid::regclass as index from pg_index
                join pg_class on pg_class.oid = indexrelid
                where relnamespace = 'bloom'::regnamespace
                  and not exists (select from pg_constraint where conindid = indexrelid)
    loop
        execute format('drop index %s', each.index);
    end loop;
end
$$;
