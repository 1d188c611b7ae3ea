-- Partitions Kith's table `events` by sequence, so that old events are dropped by partition instead of deleted by row.
-- When that is worth it, and how to take it back: "Partitions of events" in docs/operations.md.
--
-- Run it with psql, in Kith's database, as the owner of its tables (kith_migrate), at least once a day:
--
--   psql -X -v retention=30d -f partition-events.sql 'postgres://kith_migrate@HOST/kith'
--
--   events     The events of a partition. Default 67108864, a multiple of 4096, at 270 bytes each 18 GB. It may be changed
--              at any time, for the partitions that are made from then on.
--   ahead      How many partitions exist after the one with the newest event. Default 2.
--   retention  Partitions are dropped whose events are all older than this. Without it none is dropped.
--   schema     The schema of Kith's tables. Default: that of the search path.
--
-- Servers may run. The first run turns the table into a partition of itself, without copying a row: it reads the table
-- once, and locks it for moments. Each step is a transaction of its own that waits for locks 200 ms at a time, so that
-- no call waits longer. A run that fails is continued by the next one. A run that has nothing to do changes nothing and
-- prints nothing.
--
-- A partition is called events_ and its first sequence. The last one has no upper end, so that no event is without a
-- partition, however long this was not run.

\set ON_ERROR_STOP on
\if :{?events}
\else
    \set events 67108864
\endif
\if :{?ahead}
\else
    \set ahead 2
\endif
\if :{?retention}
\else
    \set retention ''
\endif
\if :{?schema}
    SELECT set_config('search_path', quote_ident(:'schema'), false) \g /dev/null
\endif

SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET timezone = 'UTC';
-- A block has no parameters.
SELECT set_config('kith.events', :'events', false), set_config('kith.ahead', :'ahead', false),
       set_config('kith.retention', :'retention', false) \g /dev/null

DO $script$
DECLARE
    size CONSTANT bigint NOT NULL := current_setting('kith.events');
    ahead CONSTANT bigint NOT NULL := current_setting('kith.ahead');
    retention CONSTANT interval := nullif(current_setting('kith.retention'), '');
    parent pg_class;
    -- The partition without an upper end, before the first run the table itself, and the first sequence that it may have.
    tail pg_class;
    first bigint;
    -- Where the tail is to end, and the constraint that proves that nothing of it lies after that.
    bound bigint;
    proof pg_constraint;
    head bigint;
    oldest regclass;
    oldest_bound bigint;
    newest timestamptz;
    -- The next step, and what to say of it.
    step text;
    meaning text;
BEGIN
    IF size < 1 OR ahead < 1 OR retention < interval '0' THEN
        RAISE 'events and ahead are at least 1, and retention is not negative';
    END IF;
    -- Held until psql ends.
    IF NOT pg_try_advisory_lock(hashtext('kith'), hashtext('partition-events')) THEN
        RAISE 'another run has not ended yet';
    END IF;

    -- Each round looks at the tables, finds the first step that is missing, and takes it.
    LOOP
        step := NULL;
        meaning := NULL;
        oldest := NULL;
        SELECT * INTO parent FROM pg_class WHERE oid = to_regclass('events') AND relkind IN ('r', 'p');
        IF NOT FOUND THEN
            RAISE 'there is no table events in the search path %', current_setting('search_path');
        END IF;
        SELECT last_sequence INTO STRICT head FROM feed;
        IF parent.relkind = 'r' THEN
            tail := parent;
            first := 0;
        ELSE
            SELECT made.* INTO tail FROM pg_inherits JOIN pg_class AS made ON made.oid = inhrelid
            WHERE inhparent = parent.oid
                  AND pg_get_expr(relpartbound, made.oid) LIKE 'FOR VALUES FROM (%) TO (MAXVALUE)';
            IF NOT FOUND THEN
                RAISE 'events has partitions, but none that ends at MAXVALUE: this script did not make them';
            END IF;
            first := substring(pg_get_expr(tail.relpartbound, tail.oid) FROM '\d+');
            -- Rights on events are enough. Others come from default privileges, and allow more than those on events.
            SELECT format('REVOKE ALL ON %s FROM %s', made.oid::regclass, string_agg(DISTINCT
                          CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, ', ')) INTO step
            FROM pg_inherits JOIN pg_class AS made ON made.oid = inhrelid
            CROSS JOIN LATERAL (
                SELECT grantee FROM aclexplode(made.relacl)
                UNION ALL
                SELECT (aclexplode(attacl)).grantee FROM pg_attribute WHERE attrelid = made.oid
            ) AS rights
            WHERE inhparent = parent.oid AND grantee <> made.relowner GROUP BY made.oid LIMIT 1;
        END IF;

        IF step IS NULL AND (parent.relkind = 'r' OR first < (head / size + ahead) * size) THEN
            SELECT * INTO proof FROM pg_constraint WHERE conrelid = tail.oid AND conname LIKE 'events\_before\_%';
            IF FOUND THEN
                bound := substring(proof.conname FROM '\d+');
                IF NOT proof.convalidated THEN
                    meaning := format('read %s once', tail.relname);
                    step := format('ALTER TABLE %s VALIDATE CONSTRAINT %I', tail.oid::regclass, proof.conname);
                END IF;
            ELSIF parent.relkind = 'p' AND head < first THEN
                -- The tail has no rows.
                bound := (first / size + 1) * size;
            ELSE
                -- Without a proof, ATTACH would read all rows with the table locked. Until the tail ends there, it takes
                -- no events after that: so at least as many as a partition has are left.
                bound := (head / size + 2) * size;
                step := format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (sequence >= %s AND sequence < %s) NOT VALID',
                               tail.oid::regclass, 'events_before_' || bound, first, bound);
            END IF;
            IF step IS NULL THEN
                IF parent.relkind = 'r' THEN
                    meaning := format('events is partitioned: the rows are in events_0, those from %s on in others', bound);
                    SELECT 'LOCK TABLE events IN ACCESS EXCLUSIVE MODE; '
                        || string_agg(format('ALTER INDEX %s RENAME TO %I; ', indexrelid::regclass,
                                             'events_0_' || regexp_replace(made.relname, '^events_', '')), '')
                        || 'ALTER TABLE events RENAME TO events_0; '
                        || format('CREATE TABLE %s.events (LIKE events_0 INCLUDING ALL EXCLUDING INDEXES '
                                  'EXCLUDING CONSTRAINTS) PARTITION BY RANGE (sequence); ',
                                  parent.relnamespace::regnamespace)
                        || format('COMMENT ON TABLE events IS %L; ', obj_description(parent.oid, 'pg_class'))
                        || format('ALTER TABLE events OWNER TO %s; ', parent.relowner::regrole)
                        -- Their definitions name events: the new table. The indexes of events_0 become parts of them.
                        || string_agg(CASE WHEN key.oid IS NULL THEN pg_get_indexdef(indexrelid)
                                           ELSE format('ALTER TABLE events ADD CONSTRAINT %I %s', conname,
                                                       pg_get_constraintdef(key.oid)) END || '; ', '')
                    INTO step
                    FROM pg_index JOIN pg_class AS made ON made.oid = indexrelid
                    LEFT JOIN pg_constraint AS key ON conindid = indexrelid AND contype IN ('p', 'u')
                    WHERE indrelid = parent.oid;
                    -- The rights of before, instead of those that default privileges give.
                    step := step || coalesce((
                        SELECT format('REVOKE ALL ON events FROM %s; ', string_agg(DISTINCT
                                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, ', '))
                        FROM pg_default_acl CROSS JOIN aclexplode(defaclacl)
                        WHERE defaclobjtype = 'r' AND defaclnamespace IN (0, parent.relnamespace)
                              AND defaclrole::regrole = to_regrole(quote_ident(current_user)) AND grantee <> parent.relowner
                        HAVING count(*) > 0
                    ), '') || coalesce((
                        SELECT string_agg(format('GRANT %s ON events TO %s%s; ', what,
                                                 CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
                                                 CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END), '')
                        FROM (
                            SELECT privilege_type AS what, grantee, is_grantable FROM aclexplode(parent.relacl)
                            UNION ALL
                            SELECT format('%s (%I)', privilege_type, attname), grantee, is_grantable
                            FROM pg_attribute CROSS JOIN aclexplode(attacl) WHERE attrelid = parent.oid
                        ) AS rights WHERE grantee <> parent.relowner
                    ), '');
                ELSE
                    meaning := format('events from %s on will be in events_%s', bound, bound);
                    step := format('ALTER TABLE events DETACH PARTITION %s; ', tail.oid::regclass);
                END IF;
                step := step
                    || format('ALTER TABLE events ATTACH PARTITION events_%s FOR VALUES FROM (%s) TO (%s); ',
                              first, first, bound)
                    || format('CREATE TABLE %s.events_%s PARTITION OF events FOR VALUES FROM (%s) TO (MAXVALUE)%s; ',
                              parent.relnamespace::regnamespace, bound, bound,
                              ' WITH (' || array_to_string(tail.reloptions, ', ') || ')')
                    || CASE WHEN proof.oid IS NULL THEN ''
                            ELSE format('ALTER TABLE events_%s DROP CONSTRAINT %I; ', first, proof.conname) END;
            END IF;
        END IF;

        -- Only the oldest partition, and only if all of it is old: the feed has no gaps.
        IF step IS NULL AND retention IS NOT NULL THEN
            SELECT made.oid, numbers[2] INTO oldest, oldest_bound
            FROM pg_inherits JOIN pg_class AS made ON made.oid = inhrelid
            CROSS JOIN regexp_match(pg_get_expr(relpartbound, made.oid), '(\d+)\D+(\d+)') AS numbers
            WHERE inhparent = parent.oid ORDER BY numbers[1]::bigint LIMIT 1;
            IF oldest_bound <= head THEN
                -- A time in the future is an error of the clock. All rows are read once the last one is old.
                EXECUTE format('SELECT time FROM %s WHERE time <= now() ORDER BY sequence DESC LIMIT 1', oldest)
                INTO newest;
                IF newest <= now() - retention THEN
                    EXECUTE format('SELECT max(time) FROM %s WHERE time <= now()', oldest) INTO newest;
                END IF;
                IF coalesce(newest <= now() - retention, true) THEN
                    meaning := format('dropped %s, whose newest event was of %s', oldest,
                                      coalesce(newest::text, 'no time'));
                    step := format('DROP TABLE %s', oldest);
                END IF;
            END IF;
        END IF;
        EXIT WHEN step IS NULL;

        FOR attempt IN 1..60 LOOP
            BEGIN
                -- Autovacuum has this lock, and ends if another one waits for it for deadlock_timeout. Calls need others.
                PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM
                                   current_setting('deadlock_timeout')::interval + interval '500 ms'))::text, true);
                EXECUTE format('LOCK TABLE ONLY events, ONLY %s, ONLY %s IN SHARE UPDATE EXCLUSIVE MODE',
                               tail.oid::regclass, coalesce(oldest, tail.oid));
                -- While a step waits, calls wait behind it.
                PERFORM set_config('lock_timeout', '200ms', true);
                EXECUTE step;
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                IF attempt = 60 THEN
                    RAISE 'a table stayed in use for a minute; run this again. The next step is: %', step;
                END IF;
            END;
            COMMIT;
            PERFORM pg_sleep(1);
        END LOOP;
        COMMIT;
        IF meaning IS NOT NULL THEN
            RAISE NOTICE '%', meaning;
        END IF;
    END LOOP;
END
$script$;
