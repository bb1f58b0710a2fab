"""The bridge between the web side and the models. `queue` and `stream` are light: the only modules webapp may import."""
