"""See the modules of cwmp_profiler; nothing is imported here, so that importing one part stays fast."""
