"""An engine whose model is in a vLLM server: the same interface (ml.engine.serving), answers over HTTP.

`address` says which servers may be asked, `client` speaks HTTP, `server` knows vLLM's API, `soft` makes prompts of
trained vectors, `adapters` decides what vLLM can answer, `engine` is the loop. No dependency on the vllm package.
"""
