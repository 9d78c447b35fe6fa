"""Sessions: what is planned, how it is measured, and the file that keeps every window."""
