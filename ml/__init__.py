"""Pure PyTorch, transformers and peft: tuning, the engine, retrieval, evaluation. Knows no Django, Celery or Redis."""
