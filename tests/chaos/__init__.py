"""Drain and account: numbered tasks, a fleet, somebody who breaks it, and the books afterwards."""
