"""Events from Kafka and Redis Streams, into the store of user events and into Parquet files."""
