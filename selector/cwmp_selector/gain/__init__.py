"""Does CWMP pay: what it gains over Top-K for given costs, before any training."""
