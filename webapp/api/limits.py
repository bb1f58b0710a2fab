"""Bounds and names of the API, for its checks and its page."""

EMBEDDING_NAME = "minilm"
MAX_INPUTS = 256
"""Texts of one call to /v1/embeddings."""
MAX_INPUT_CHARS = 100_000
MAX_MESSAGES = 512
MAX_N = 8
"""Answers to one prompt."""
MAX_PROMPTS = 32
"""Of one call to /v1/completions; and its answers in all."""
MAX_CHOICES, MAX_CHOICE_CHARS = 256, 1000
"""Texts to choose an answer from."""
MAX_LISTED = 100
"""Files or batches of one page."""
MAX_PASSAGES = 50
SEARCH_S = 30.0
"""How long a search may take."""
MAX_LOGPROBS = 20
MAX_TEXT_LOGPROBS = 5
"""Of /v1/completions, as OpenAI has it."""
RETRY_AFTER_S = 20
"""What a client is told to wait while no engine runs."""
RESET_S = 5
"""What a client is told to wait for room in the queue."""
FIRST_EVENT_S = 10
"""How long a streamed answer may wait before its headers are sent; until then errors have a status of their own."""
