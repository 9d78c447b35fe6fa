"""The device profile: schema, files, migration, plausibility, joules per count."""
