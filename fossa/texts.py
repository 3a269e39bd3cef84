"""Texts of models and plugins, which may hold anything that Python's strings can."""


def encodable(text: str) -> str:
    """The text with the lone surrogates escaped: UTF-8 cannot carry them."""
    return text.encode("utf-8", "backslashreplace").decode()
