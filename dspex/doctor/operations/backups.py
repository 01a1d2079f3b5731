"""Backups."""

from __future__ import annotations
