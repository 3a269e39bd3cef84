"""Fossa over RabbitMQ: a source and an executor that pair up."""
