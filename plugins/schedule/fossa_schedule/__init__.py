"""Tasks at set times: cron lines and intervals, with time zones."""

from fossa_schedule.entries import Entry, cron, every

__all__ = ["Entry", "cron", "every"]
