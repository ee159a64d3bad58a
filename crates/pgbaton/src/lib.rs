//! Replicates row changes out of PostgreSQL with workers that stand in for one another.
