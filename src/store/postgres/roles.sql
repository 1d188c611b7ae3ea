-- Roles with the least rights for Kith on PostgreSQL. Printed by `kith migrate --print-roles`.
--
--   kith_migrate  owns the tables. For `kith migrate`, when a new version of Kith is installed.
--   kith_serve    reads and writes rows. For `kith serve --migrate=false`, `kith check --repair` and
--                 `kith restore-epoch`. It cannot create, alter, drop or truncate anything.
--   kith_read     reads rows. For `kith serve --read-only` and `kith check`.
--
-- Run it with psql in Kith's database as a superuser, or as the owner of the database and its tables with CREATEROLE:
--
--   kith migrate --print-roles | psql 'postgres://postgres@HOST/kith'
--
-- before the first migration, and again after each one. It may be run at any time and repeats nothing: tables that
-- another role owns get kith_migrate as their owner. Tables of later migrations are covered by default privileges, which
-- the next run replaces by what each table needs. The roles have no passwords: set them with psql's \password.
--
-- For another schema than public: psql -v schema=NAME.

\set ON_ERROR_STOP on
\if :{?schema}
\else
    \set schema public
\endif

BEGIN;

SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['kith_migrate', 'kith_serve', 'kith_read']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
-- Only a member of a role can give it tables. A superuser is a member of all.
SELECT format('GRANT kith_migrate TO %I', current_user) WHERE NOT pg_has_role(current_user, 'kith_migrate', 'USAGE')
\gexec

-- PUBLIC is every role. Before version 15 it may create tables in the schema public, and it may always create temporary
-- ones. If other programs use this database and do so, grant it to their roles.
CREATE SCHEMA IF NOT EXISTS :"schema";
REVOKE CREATE ON SCHEMA :"schema" FROM PUBLIC;
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON DATABASE :"DBNAME" FROM kith_migrate, kith_serve, kith_read;
GRANT CONNECT ON DATABASE :"DBNAME" TO kith_migrate, kith_serve, kith_read;
REVOKE ALL ON SCHEMA :"schema" FROM kith_serve, kith_read;
GRANT USAGE ON SCHEMA :"schema" TO kith_serve, kith_read;
GRANT USAGE, CREATE ON SCHEMA :"schema" TO kith_migrate;

-- The tables, and what kith_serve needs on each.
CREATE OR REPLACE FUNCTION pg_temp.needed() RETURNS TABLE (name text, rights text) LANGUAGE sql AS $$ VALUES
    {needed}
$$;

-- Partitions get the owner of their table. The rights on the table are enough for the other roles.
SELECT format('ALTER TABLE %s OWNER TO kith_migrate', made.oid::regclass)
FROM pg_class JOIN pg_temp.needed() ON name = pg_class.relname
LEFT JOIN pg_inherits ON inhparent = pg_class.oid
JOIN pg_class AS made ON made.oid IN (pg_class.oid, inhrelid)
WHERE pg_class.relnamespace = to_regnamespace(:'schema') AND made.relkind IN ('r', 'p', 'v')
      AND made.relowner <> to_regrole('kith_migrate')
GROUP BY made.oid
\gexec
SELECT format('REVOKE ALL ON %I.%I FROM PUBLIC, kith_serve, kith_read', :'schema', relname),
       format('GRANT %s ON %I.%I TO kith_serve', rights, :'schema', relname),
       format('GRANT SELECT ON %I.%I TO kith_read', :'schema', relname)
FROM pg_class JOIN pg_temp.needed() ON name = relname
WHERE relnamespace = to_regnamespace(:'schema') AND relkind IN ('r', 'p', 'v')
\gexec

-- Tables of later migrations. Kith has no sequences.
ALTER DEFAULT PRIVILEGES FOR ROLE kith_migrate IN SCHEMA :"schema"
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO kith_serve;
ALTER DEFAULT PRIVILEGES FOR ROLE kith_migrate IN SCHEMA :"schema" GRANT SELECT ON TABLES TO kith_read;

-- Kith's tables are found wherever they are, and nothing else by their names. kith_read cannot write even by mistake.
ALTER ROLE kith_migrate IN DATABASE :"DBNAME" SET search_path = :"schema";
ALTER ROLE kith_serve IN DATABASE :"DBNAME" SET search_path = :"schema";
ALTER ROLE kith_read IN DATABASE :"DBNAME" SET search_path = :"schema";
ALTER ROLE kith_read IN DATABASE :"DBNAME" SET default_transaction_read_only = on;

COMMIT;
