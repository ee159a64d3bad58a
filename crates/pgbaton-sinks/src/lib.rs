//! Where changes go: the sink contract, encodings, and Kafka.
