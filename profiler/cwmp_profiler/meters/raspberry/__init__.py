"""Raspberry Pi 5: the power management chip, asked through the firmware."""
