-- What the load needs besides the three tables that every cluster has. Runs at the start of each load, as the owner of the tables.
--
-- The witness: a trigger on each table notes every row change in settings of the transaction, in the order in which PostgreSQL
-- logs them. Settings are transactional: what a savepoint takes back, it takes back here, too. The transaction's ledger row
-- carries the notes, so they survive exactly if the changes do. Only sessions of the load are noted (lab.client).

CREATE SCHEMA IF NOT EXISTS lab;

ALTER TABLE public.ledger ADD COLUMN IF NOT EXISTS digest text, ADD COLUMN IF NOT EXISTS changes text;

-- Of the values as jsonb prints them, one line for each column, by name; NULL is a single byte that no text of the load has.
CREATE OR REPLACE FUNCTION lab.row_hash(r jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(left(encode(sha256(convert_to(
        string_agg(key || '=' || coalesce(value, E'\x01'), E'\n' ORDER BY key COLLATE "C"), 'UTF8')), 'hex'), 16), '-')
    FROM jsonb_each_text(r)
$$;

-- Notes a change: table, operation, hashes of the row before and after, key. The digest is a chain over all lines of the
-- transaction; the lines themselves are kept up to a number that fits into a row.
CREATE OR REPLACE FUNCTION lab.note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before jsonb;
    after jsonb;
    key text := '';
    line text;
    n int := coalesce(nullif(current_setting('lab.count', true), ''), '0')::int + 1;
    done text;
BEGIN
    IF tg_op IN ('UPDATE', 'DELETE') THEN before := to_jsonb(old); END IF;
    IF tg_op IN ('INSERT', 'UPDATE') THEN after := to_jsonb(new); END IF;
    FOR i IN 0 .. tg_nargs - 1 LOOP
        key := key || CASE WHEN i > 0 THEN '/' ELSE '' END || coalesce(coalesce(after, before) ->> tg_argv[i], '');
    END LOOP;
    line := tg_table_name || ' '
        || CASE tg_op WHEN 'INSERT' THEN 'c' WHEN 'UPDATE' THEN 'u' WHEN 'DELETE' THEN 'd' ELSE 't' END || ' '
        || lab.row_hash(before) || ' ' || lab.row_hash(after) || ' ' || key;
    done := set_config('lab.count', n::text, true);
    done := set_config('lab.digest',
        encode(sha256(convert_to(coalesce(current_setting('lab.digest', true), '') || line, 'UTF8')), 'hex'), true);
    IF n <= 200 THEN
        done := set_config('lab.lines', coalesce(current_setting('lab.lines', true), '') || line || E'\n', true);
    END IF;
    RETURN NULL;
END
$$;

-- Has a table's changes noted and published wherever the ledger is published.
CREATE OR REPLACE PROCEDURE lab.adopt(place text, VARIADIC keys text[] DEFAULT '{}') LANGUAGE plpgsql AS $$
DECLARE
    publication text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = ('public.' || place)::regclass AND tgname = 'lab_note') THEN
        EXECUTE format(
            $q$CREATE TRIGGER lab_note AFTER INSERT OR UPDATE OR DELETE ON public.%I FOR EACH ROW
               WHEN (current_setting('lab.client', true) <> '') EXECUTE FUNCTION lab.note(%s)$q$,
            place, (SELECT string_agg(quote_literal(key), ', ') FROM unnest(keys) key));
        EXECUTE format(
            $q$CREATE TRIGGER lab_note_truncate AFTER TRUNCATE ON public.%I
               WHEN (current_setting('lab.client', true) <> '') EXECUTE FUNCTION lab.note()$q$, place);
    END IF;
    FOR publication IN
        SELECT pubname FROM pg_publication_tables WHERE (schemaname, tablename) = ('public', 'ledger')
        EXCEPT SELECT pubname FROM pg_publication_tables WHERE (schemaname, tablename) = ('public', place)
    LOOP
        EXECUTE format('ALTER PUBLICATION %I ADD TABLE public.%I', publication, place);
    END LOOP;
END
$$;

-- Identity FULL, and a type of each sort.
CREATE TABLE IF NOT EXISTS public.load_full (
    id bigint PRIMARY KEY, owner int NOT NULL, flag boolean, day date, stamp timestamp, amount numeric, raw bytea, extra jsonb,
    body text
);
ALTER TABLE public.load_full REPLICA IDENTITY FULL;

-- No key at all: rows are told apart by all that is in them.
CREATE TABLE IF NOT EXISTS public.load_keyless (owner int NOT NULL, name text NOT NULL, amount numeric(12, 2) NOT NULL, note text);
ALTER TABLE public.load_keyless REPLICA IDENTITY FULL;

-- No key and nothing that a change could name a row by: rows only come.
CREATE TABLE IF NOT EXISTS public.load_append (owner int NOT NULL, note text, at timestamptz NOT NULL DEFAULT clock_timestamp());

CREATE TABLE IF NOT EXISTS public.load_pair (
    region text, code bigint, value int NOT NULL, note text, PRIMARY KEY (region, code)
);

-- Columns come and go.
CREATE TABLE IF NOT EXISTS public.load_shapes (id bigint PRIMARY KEY, owner int NOT NULL, name text NOT NULL);

-- Emptied now and then.
CREATE TABLE IF NOT EXISTS public.load_scratch (id bigint PRIMARY KEY, note text);

-- Changed by thousands of rows at once.
CREATE TABLE IF NOT EXISTS public.load_bulk (id bigint PRIMARY KEY, value int NOT NULL, note text);

CALL lab.adopt('items', 'id');
CALL lab.adopt('latest', 'id');
CALL lab.adopt('load_full', 'id');
CALL lab.adopt('load_keyless');
CALL lab.adopt('load_append');
CALL lab.adopt('load_pair', 'region', 'code');
CALL lab.adopt('load_shapes', 'id');
CALL lab.adopt('load_scratch', 'id');
CALL lab.adopt('load_bulk', 'id');

-- Adds a column or drops the oldest of those that were added. A name is never used twice.
CREATE OR REPLACE FUNCTION lab.reshape(kind text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    added text[] := (
        SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = 'public.load_shapes'::regclass AND attname LIKE 'extra\_%' AND NOT attisdropped);
    used int := (SELECT max(attnum) FROM pg_attribute WHERE attrelid = 'public.load_shapes'::regclass);
    name text := 'extra_' || used;
BEGIN
    IF cardinality(added) >= 4 OR (used > 1500 AND cardinality(added) > 0) THEN
        EXECUTE format('ALTER TABLE public.load_shapes DROP COLUMN %I', added[1]);
    ELSIF used <= 1500 THEN
        EXECUTE format('ALTER TABLE public.load_shapes ADD COLUMN %I %s', name, kind);
        EXECUTE format(
            'UPDATE public.load_shapes SET %I = %s WHERE id IN (SELECT id FROM public.load_shapes ORDER BY id DESC LIMIT 5)',
            name, CASE WHEN kind LIKE 'text%' THEN quote_literal('filled') WHEN kind LIKE 'boolean%' THEN 'true' ELSE '42' END);
    END IF;
END
$$;

-- Makes a table, has it published, and writes to it in the same transaction; once there are ten, writes to one of those.
CREATE OR REPLACE FUNCTION lab.grow(first_id bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    made int := (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname LIKE 'load\_new\_%' AND relkind = 'r');
    place text := 'load_new_' || CASE WHEN made < 10 THEN made + 1 ELSE first_id % 10 + 1 END;
BEGIN
    IF made < 10 THEN
        EXECUTE format('CREATE TABLE public.%I (id bigint PRIMARY KEY, note text, at timestamptz NOT NULL DEFAULT now())', place);
        CALL lab.adopt(place, 'id');
    END IF;
    EXECUTE format('INSERT INTO public.%I (id, note) SELECT $1 + n, ''row '' || n FROM generate_series(0, 2) n', place) USING first_id;
END
$$;

-- Ids above this one are free in every table.
CREATE OR REPLACE FUNCTION lab.last_id() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    place regclass;
    found bigint;
    last bigint := coalesce((SELECT max(code) FROM public.load_pair), 0);
BEGIN
    FOR place IN
        SELECT attrelid::regclass FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attname = 'id' AND atttypid = 'bigint'::regtype
    LOOP
        EXECUTE format('SELECT max(id) FROM %s', place) INTO found;
        last := greatest(last, found);
    END LOOP;
    RETURN last;
END
$$;
