"""The ServerApp: FedAvg inside a strategy that decodes and validates every payload."""

from cwmp_federated.server.app import app

__all__ = ["app"]
