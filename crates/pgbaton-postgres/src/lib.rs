//! PostgreSQL as pgbaton sees it: the replication connection, pgoutput, slots and catalogue.
