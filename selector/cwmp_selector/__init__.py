"""See the modules of cwmp_selector; nothing is imported here, so that importing one part stays fast."""
