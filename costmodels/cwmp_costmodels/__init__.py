"""See the modules of cwmp_costmodels; nothing is imported here, so that importing one part stays fast."""
