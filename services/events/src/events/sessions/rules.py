"""Decisions about sessions that need no database."""

PUBLIC_STATES = ("accepted", "confirmed")
