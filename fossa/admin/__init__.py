"""The node over HTTP: the API, the pages, the metrics. An aiohttp application."""
