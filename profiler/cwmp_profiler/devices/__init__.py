"""Devices under measurement; torch is imported only by those that compute on it."""
