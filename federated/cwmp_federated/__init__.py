"""See the modules of cwmp_federated; nothing is imported here, so that importing one part stays fast."""
