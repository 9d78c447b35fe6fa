"""Tables and JSON that verbs print."""
