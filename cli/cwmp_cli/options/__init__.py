"""Options, targets and consoles that verbs share."""
