"""The server's side: admission, aggregation, the common threshold."""
