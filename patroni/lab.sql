-- The lab's roles, database, tables and publication. Runs as the superuser in a new cluster; passwords are the lab's, known to everybody.

-- The worker's role. REPLICATION reads slots and streams; pg_monitor lets it see the positions in pg_stat_replication. It reads no table.
CREATE ROLE pgbaton LOGIN REPLICATION PASSWORD 'pgbaton-lab';
GRANT pg_monitor TO pgbaton;

CREATE ROLE app LOGIN PASSWORD 'app-lab';
CREATE DATABASE appdb OWNER app;

\connect appdb
SET ROLE app;

-- One row in every transaction of the load generator: what the surviving database holds here is what was written.
CREATE TABLE public.ledger (
    id     uuid PRIMARY KEY,
    client int NOT NULL,
    number bigint NOT NULL,
    rows   int NOT NULL,
    at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE public.items (
    id     bigint PRIMARY KEY,
    owner  int NOT NULL,
    name   text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    note   text,
    at     timestamptz NOT NULL DEFAULT now()
);

-- Few rows, overwritten again and again: order matters here.
CREATE TABLE public.latest (
    id    int PRIMARY KEY,
    value bigint NOT NULL,
    note  text
);

CREATE PUBLICATION orders FOR TABLE public.ledger, public.items, public.latest;
