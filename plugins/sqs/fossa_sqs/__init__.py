"""Fossa over Amazon SQS: tasks in, outcomes out."""
