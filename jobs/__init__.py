"""The bridge between web side and models. `queue` and `stream` are light: the only modules webapp may import."""
